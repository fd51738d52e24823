"""The command line of `llama-server`, and how to read its log and metrics (no I/O here)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelium.config import LlamaCpp
from modelium.errors import FailureKind, LoadFailed
from modelium.models import RuntimeName, Task
from modelium.models.base import base_name
from modelium.models.runtimes import LLAMA_CPP
from modelium.ports import EngineStats, LoadRequest
from runtimes.engines.probe import openai_probe
from runtimes.loading.failure_kind import Rules, classify
from runtimes.loading.prometheus_text import totals
from runtimes.loading.settings import allowed_arguments, complete, flags
from runtimes.process.supervisor import Command

DEFAULT_CONTEXT = 4096
"""Default tokens per sequence: the model's own context may take many GiB."""
MIN_CONTEXT = 1024
ALL_LAYERS = "999"

RESERVED = frozenset(
    {
        *("model", "m", "alias", "a", "host", "port", "api_key", "api_key_file", "ctx_size", "c"),
        *("parallel", "np", "n_gpu_layers", "ngl", "metrics", "model_url", "hf_repo", "hf_file"),
        *("path", "ssl_key_file", "ssl_cert_file", "rpc", "mmproj", "mm", "mmproj_url", "mmu"),
    }
)
"""Arguments that the driver derives from the request, or that fetch models from elsewhere."""

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


class LlamaCppRecipe:
    """`runtimes.engines.recipe.EngineRecipe` of llama.cpp's server."""

    name = RuntimeName.LLAMA_CPP

    spans_nodes = False

    def __init__(self, *, config: LlamaCpp, executable: str) -> None:
        """``executable``: absolute path of the command, or its name if it was not found."""
        self._config = config
        self._executable = executable

    def complete(self, request: LoadRequest) -> LoadRequest:
        """Fill unset settings from the configured defaults."""
        context = request.profile.context_length
        settings = complete(request.settings, self._config.default_settings, context_length=context)
        if settings.max_model_len is None:
            length = min(DEFAULT_CONTEXT, context or DEFAULT_CONTEXT)
            settings = settings.model_copy(update={"max_model_len": length})
        return replace(request, settings=settings)

    def command(self, request: LoadRequest, *, host: str, port: int, key: str) -> Command:
        """See `EngineRecipe.command`; the key is passed in LLAMA_API_KEY."""
        file = request.profile.files.get("model")
        if not file:
            raise LoadFailed(f"{request.model} has no GGUF file", kind=FailureKind.BAD_FILES)
        settings, alias = request.settings, base_name(request.model)
        sequences = settings.max_num_seqs or 1
        gpus = [device for device in request.devices if device.kind == "gpu"]
        arguments = [
            *(self._executable, "--model", str(Path(request.path) / file)),
            *("--alias", alias, "--host", host, "--port", str(port), "--metrics"),
            # The sequences divide one context among them.
            *("--ctx-size", str((settings.max_model_len or DEFAULT_CONTEXT) * sequences)),
            *("--parallel", str(sequences)),
            *("--n-gpu-layers", ALL_LAYERS if gpus else "0"),
        ]
        arguments += _kind(request)
        if settings.kv_dtype:
            arguments += ["--cache-type-k", settings.kv_dtype, "--cache-type-v", settings.kv_dtype]
        arguments += flags(self._extra(request))
        environment = {"LLAMA_API_KEY": key}
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(device.uuid for device in gpus)
        # It would fetch the images of requests from any address otherwise; there is no option.
        return Command(argv=tuple(arguments), environment=environment, connects=False)

    def phase(self, line: str) -> tuple[str, float | None] | None:
        """See `EngineRecipe.phase`."""
        if CONTEXT.search(line):
            return "allocating the KV cache", None
        return ("loading weights", None) if LOADING.search(line) else None

    def probe(self, request: LoadRequest) -> tuple[str, dict[str, Any]] | None:
        """Ask for one token, embedding or score, by the model's task."""
        if request.profile.task is Task.TEXT_RANKING:
            return "/v1/rerank", {"model": request.model, "query": "1", "documents": ["1"]}
        return openai_probe(request)

    def failure(self, lines: Sequence[str], code: int | None) -> FailureKind:
        """See `EngineRecipe.failure`."""
        return classify(lines, code, FAILURES)

    def smaller(self, request: LoadRequest, lines: Sequence[str]) -> LoadRequest | None:
        """Halve the sequences or, if there is one only, the context."""
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
        """See `EngineRecipe.stats`; llama.cpp counts tokens, not requests."""
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
        arguments = allowed_arguments(
            request.settings.extra,
            runtime=LLAMA_CPP,
            allowed=(*self._config.allowed_extra, *self._config.default_settings),
            reserved=RESERVED,
        )
        return arguments


def _kind(request: LoadRequest) -> list[str]:
    """Return the options without which the server refuses the requests of the model's kind."""
    profile, settings = request.profile, request.settings
    arguments = []
    if profile.task in (Task.EMBEDDING, Task.TEXT_RANKING):
        ranking = profile.task is Task.TEXT_RANKING
        arguments.append("--reranking" if ranking else "--embeddings")
        # Pooling needs all tokens of an input in one batch; the default takes 512.
        length = str(settings.max_model_len or DEFAULT_CONTEXT)
        arguments += ["--batch-size", length, "--ubatch-size", length]
    if projector := profile.files.get("projector"):
        arguments += ["--mmproj", str(Path(request.path) / projector)]
    return arguments
