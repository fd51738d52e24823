"""How a llama.cpp server is started, and what it says (no I/O here)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelium.config import LlamaCpp
from modelium.errors import FailureKind, LoadFailed
from modelium.models import RuntimeName
from modelium.ports import EngineStats, LoadRequest
from runtimes.engines.probe import openai_probe
from runtimes.engines.recipe import Api
from runtimes.loading.failure_text import Rules, classify
from runtimes.loading.prometheus_text import totals
from runtimes.loading.settings import complete, flags
from runtimes.process.supervisor import Command

DEFAULT_CONTEXT = 4096
"""Tokens per sequence where nothing is said: the model's own context may cost many GiB."""
MIN_CONTEXT = 1024
ALL_LAYERS = "999"

OURS = frozenset(
    {
        *("model", "m", "alias", "a", "host", "port", "api_key", "api_key_file", "ctx_size", "c"),
        *("parallel", "np", "n_gpu_layers", "ngl", "metrics", "model_url", "hf_repo", "hf_file"),
        *("path", "ssl_key_file", "ssl_cert_file", "rpc"),
    }
)
"""Arguments that are derived from the request, or fetch models from elsewhere."""

FAILURES: Rules = (
    (FailureKind.OUT_OF_MEMORY, r"unable to allocate|failed to fit params|not enough memory"),
    (
        FailureKind.UNSUPPORTED,
        r"unknown model architecture|unsupported model|unknown pre-tokenizer",
    ),
    (
        FailureKind.BAD_FILES,
        r"failed to read|invalid magic|gguf_init|corrupted|tensor .* not within|"
        r"wrong number of tensors|missing tensor|no such file|failed to open|key not found",
    ),
    (FailureKind.BAD_SETTINGS, r"invalid argument|unrecognized arguments|error while handling"),
    (FailureKind.ENVIRONMENT, r"ModuleNotFoundError|error while loading shared libraries"),
    (FailureKind.BAD_FILES, r"failed to load model"),
)
LOADING = re.compile(r"load_tensors|llama_model_load|loading model", re.IGNORECASE)
CONTEXT = re.compile(r"llama_context|llama_kv_cache|warming up", re.IGNORECASE)


class LlamaEngine:
    """`runtimes.engines.recipe.Recipe` of llama.cpp's server."""

    name = RuntimeName.LLAMA_CPP
    apis: frozenset[Api] = frozenset({"openai"})

    def __init__(self, *, config: LlamaCpp, executable: str) -> None:
        """``executable``: the command's absolute path where it was found."""
        self._config = config
        self._executable = executable

    def complete(self, request: LoadRequest) -> LoadRequest:
        """Apply the configured defaults."""
        context = request.profile.context_length
        settings = complete(request.settings, self._config.default_settings, context_length=context)
        if settings.max_model_len is None:
            length = min(DEFAULT_CONTEXT, context or DEFAULT_CONTEXT)
            settings = settings.model_copy(update={"max_model_len": length})
        return replace(request, settings=settings)

    def command(self, request: LoadRequest, *, host: str, port: int, key: str) -> Command:
        """See `Recipe.command`; the key goes by LLAMA_API_KEY."""
        file = request.profile.files.get("model")
        if not file:
            raise LoadFailed(f"{request.model} has no GGUF file", kind=FailureKind.BAD_FILES)
        settings = request.settings
        sequences = settings.max_num_seqs or 1
        gpus = [device for device in request.devices if device.kind == "gpu"]
        words = [
            *(self._executable, "--model", str(Path(request.path) / file)),
            *("--alias", request.model, "--host", host, "--port", str(port), "--metrics"),
            # One context is divided among the sequences.
            *("--ctx-size", str((settings.max_model_len or DEFAULT_CONTEXT) * sequences)),
            *("--parallel", str(sequences)),
            *("--n-gpu-layers", ALL_LAYERS if gpus else "0"),
        ]
        if settings.kv_dtype:
            words += ["--cache-type-k", settings.kv_dtype, "--cache-type-v", settings.kv_dtype]
        words += flags(self._extra(request))
        environment = {"LLAMA_API_KEY": key}
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(device.uuid for device in gpus)
        return Command(argv=tuple(words), environment=environment)

    def phase(self, line: str) -> tuple[str, float | None] | None:
        """What a line of its log says about the start, if anything."""
        if CONTEXT.search(line):
            return "allocating the KV cache", None
        return ("loading weights", None) if LOADING.search(line) else None

    def probe(self, request: LoadRequest) -> tuple[str, dict[str, Any]] | None:
        """One token or one vector, by the model's task."""
        return openai_probe(request)

    def failure(self, lines: Sequence[str], code: int | None) -> FailureKind:
        """Why it died while starting."""
        return classify(lines, code, FAILURES)

    def smaller(self, request: LoadRequest) -> LoadRequest | None:
        """Half the sequences or, where there is one, half the context."""
        old = request.settings
        if old.max_num_seqs and old.max_num_seqs > 1:
            return replace(
                request,
                settings=old.model_copy(update={"max_num_seqs": old.max_num_seqs // 2}),
            )
        context = old.max_model_len or DEFAULT_CONTEXT
        if context <= MIN_CONTEXT:
            return None
        less = old.model_copy(update={"max_model_len": max(MIN_CONTEXT, context // 2)})
        return replace(request, settings=less)

    def stats(self, metrics: str) -> EngineStats:
        """Counters from the text of /metrics; llama.cpp does not count requests, only tokens."""
        found = totals(metrics)
        return EngineStats(
            running=int(found.get("llamacpp:requests_processing", 0)),
            waiting=int(found.get("llamacpp:requests_deferred", 0)),
            latency_sum_s=found.get("llamacpp:prompt_seconds_total", 0.0)
            + found.get("llamacpp:tokens_predicted_seconds_total", 0.0),
            prompt_tokens=int(found.get("llamacpp:prompt_tokens_total", 0)),
            generated_tokens=int(found.get("llamacpp:tokens_predicted_total", 0)),
            kv_usage=found.get("llamacpp:kv_cache_usage_ratio"),
        )

    def _extra(self, request: LoadRequest) -> dict[str, str | int | float | bool]:
        names = {key.replace("-", "_"): value for key, value in request.settings.extra.items()}
        allowed = {
            name.replace("-", "_")
            for name in (*self._config.allowed_extra, *self._config.default_settings)
        }
        refused = sorted(name for name in names if name in OURS or name not in allowed)
        if refused:
            raise LoadFailed(
                f"llama.cpp arguments {', '.join(refused)} are not allowed: name them in "
                "llama_cpp.allowed_extra (those that the driver sets itself never are)",
                kind=FailureKind.BAD_SETTINGS,
            )
        return names
