"""How a vLLM engine is started, and what it says (no I/O here)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from modelium.config import Vllm
from modelium.errors import FailureKind, LoadFailed
from modelium.models import GIB, LoadSettings, RuntimeName
from modelium.ports import EngineStats, LoadRequest
from runtimes.engines.probe import openai_probe
from runtimes.engines.recipe import Api
from runtimes.engines.sleep import SLEEP_SETTING
from runtimes.loading.failure_text import Rules, classify
from runtimes.loading.prometheus_text import samples
from runtimes.loading.settings import complete, flags
from runtimes.process.supervisor import Command

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "PYTHONUNBUFFERED": "1",
}
CPU_ENVIRONMENT = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""vLLM's own choice pins the workers of all engines to the same cores."""
DEV_MODE = {"VLLM_SERVER_DEV_MODE": "1"}
"""Without it vLLM does not offer /sleep and /wake_up."""

CPU_OVERHEAD_BYTES = int(1.5 * GIB)
"""Resident memory of a CPU engine without weights and KV cache (measured 1.4–1.5 GB, 0.32)."""
MIN_KV_BYTES = 32 * 1024**2
MAX_UTILIZATION = 0.99
MIN_CONTEXT = 1024
"""A retry with less memory does not go below this context."""

OURS = frozenset(
    {
        *("model", "host", "port", "uds", "api_key", "served_model_name", "trust_remote_code"),
        *("device_ids", "gpu_memory_utilization", "kv_cache_memory_bytes", "root_path"),
        *("tensor_parallel_size", "middleware", "config"),
    }
)
"""Arguments that are derived from the request; no plan or default sets them."""

PHASES: Sequence[tuple[str, re.Pattern[str]]] = (
    ("downloading", re.compile(r"Downloading .*?(\d+)%")),
    ("loading weights", re.compile(r"(?:checkpoint shards|Loading weights|weights):?\s+(\d+)%")),
    ("loading weights", re.compile(r"Starting to load model|Loading weights")),
    ("profiling", re.compile(r"Loading weights took|Model loading took|profil", re.IGNORECASE)),
    ("compiling", re.compile(r"torch\.compile|Compiling|Dynamo bytecode", re.IGNORECASE)),
    ("capturing graphs", re.compile(r"Capturing (?:CUDA|cudagraph|CPU) ?graphs?.*?(\d+)%")),
    (
        "allocating the KV cache",
        re.compile(r"GPU KV cache size|KV cache size|# (?:GPU|CPU) blocks"),
    ),
    ("starting the API", re.compile(r"Starting vLLM (?:API )?server|Application startup")),
)

FAILURES: Rules = (
    (
        FailureKind.OUT_OF_MEMORY,
        r"No available memory for the cache blocks|Free memory on device .* is less than|"
        r"larger than the available KV cache memory|KV cache is needed|"
        r"larger than the maximum number of tokens that can be stored in KV cache|"
        r"Not enough (?:free )?memory",
    ),
    (
        FailureKind.UNSUPPORTED,
        r"does not recognize this architecture|architectures? .*(?:are|is) not supported|"
        r"has no vLLM implementation|Unknown quantization|not supported for quantization",
    ),
    (
        FailureKind.BAD_FILES,
        r"LocalEntryNotFoundError|Invalid repository ID|SafetensorError|safetensors_rust|"
        r"JSONDecodeError|does not appear to have|Cannot find any model weights|"
        r"FileNotFoundError|size mismatch|UnpicklingError|Can't load tokenizer|"
        r"Couldn't instantiate the backend tokenizer|TokenizerFast\.from_file",
    ),
    (
        FailureKind.ENVIRONMENT,
        r"ModuleNotFoundError|ImportError|PackageNotFoundError|No CUDA GPUs are available|"
        r"CUDA driver version is insufficient|Failed to infer device type",
    ),
    (
        FailureKind.BAD_SETTINGS,
        r"unrecognized arguments|invalid choice|validation error|Value error|argument --",
    ),
)

COUNTERS = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "generated_tokens",
}
FAILED_REASONS = frozenset({"error", "abort"})


class VllmEngine:
    """`runtimes.engines.recipe.Recipe` of vLLM."""

    name = RuntimeName.VLLM
    apis: frozenset[Api] = frozenset({"openai"})

    def __init__(self, *, config: Vllm, executable: str) -> None:
        """``executable``: the command's absolute path where it was found."""
        self._config = config
        self._executable = executable

    @property
    def sleeps(self) -> bool:
        """Whether engines are started so that they can sleep."""
        return self._config.default_settings.get(SLEEP_SETTING) is True

    def complete(self, request: LoadRequest) -> LoadRequest:
        """Apply the configured defaults."""
        settings = complete(
            request.settings,
            self._config.default_settings,
            context_length=request.profile.context_length,
        )
        return replace(request, settings=settings)

    def command(self, request: LoadRequest, *, host: str, port: int, key: str) -> Command:
        """See `Recipe.command`; the key goes by VLLM_API_KEY."""
        settings, gpus = request.settings, request.devices[0].kind == "gpu"
        if len(request.devices) != settings.tensor_parallel_size:
            raise LoadFailed(
                f"tensor_parallel_size {settings.tensor_parallel_size} needs as many devices, "
                f"not {len(request.devices)}",
                kind=FailureKind.BAD_SETTINGS,
            )
        words = [
            *(self._executable, "serve", request.path),
            *("--host", host, "--port", str(port)),
            *("--served-model-name", request.model),
            *_common(settings),
            *(_gpu_memory(request) if gpus else _cpu_memory(request)),
            *flags(self._extra(settings, gpus)),
        ]
        if request.allow_remote_code:
            words.append("--trust-remote-code")
        environment = {**ENVIRONMENT, "VLLM_API_KEY": key}
        if gpus:
            # By UUID: indices shift when a GPU drops off the bus.
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(d.uuid for d in request.devices)
        else:
            environment |= CPU_ENVIRONMENT
        if self.sleeps:
            environment |= DEV_MODE
        return Command(argv=tuple(words), environment=environment | self._config.environment)

    def phase(self, line: str) -> tuple[str, float | None] | None:
        """What a line of its log says about the start, if anything."""
        for name, pattern in PHASES:
            match = pattern.search(line)
            if match:
                share = int(match[1]) / 100 if match.groups() and match[1] else None
                return name, share
        return None

    def probe(self, request: LoadRequest) -> tuple[str, dict[str, Any]] | None:
        """One token or one vector, by the model's task."""
        return openai_probe(request)

    def failure(self, lines: Sequence[str], code: int | None) -> FailureKind:
        """Why it died while starting. Its exit status tells little: often 1, even 0."""
        return classify(lines, code, FAILURES)

    def smaller(self, request: LoadRequest) -> LoadRequest | None:
        """Halve context and sequences, take a quarter off the KV pool, spare the graphs."""
        old = request.settings
        context = old.max_model_len or request.profile.context_length
        changes: dict[str, object] = {}
        if context and context > MIN_CONTEXT:
            changes["max_model_len"] = max(MIN_CONTEXT, context // 2)
        if old.max_num_seqs is None or old.max_num_seqs > 1:
            changes["max_num_seqs"] = max(1, (old.max_num_seqs or 256) // 2)
        if not changes:
            return None
        if old.kv_cache_bytes:
            changes["kv_cache_bytes"] = max(MIN_KV_BYTES, old.kv_cache_bytes * 3 // 4)
        return replace(request, settings=old.model_copy(update=changes))

    def stats(self, metrics: str) -> EngineStats:
        """Counters from the text of /metrics."""
        counts = dict.fromkeys(COUNTERS.values(), 0)
        completed = failed = answered = 0
        kv_usage, latency = None, 0.0
        for name, labels, value in samples(metrics):
            if name in COUNTERS:
                counts[COUNTERS[name]] += int(value)
            elif name == "vllm:request_success_total":
                if labels.get("finished_reason") in FAILED_REASONS:
                    failed += int(value)
                else:
                    completed += int(value)
            elif name == "http_requests_total" and _is_work(labels):
                answered += int(value)  # a completion of many prompts counts above for each
            elif name == "vllm:kv_cache_usage_perc":
                kv_usage = max(kv_usage or 0.0, value)
            elif name == "vllm:e2e_request_latency_seconds_sum":
                latency += value
        return EngineStats(
            **counts,
            completed=completed,
            failed=failed,
            http_requests=answered or None,
            latency_sum_s=latency,
            kv_usage=kv_usage,
        )

    def _extra(self, settings: LoadSettings, gpus: bool) -> dict[str, str | int | float | bool]:
        names = {name.replace("-", "_"): value for name, value in settings.extra.items()}
        allowed = {
            name.replace("-", "_")
            for name in (*self._config.allowed_extra, *self._config.default_settings)
        }
        refused = sorted(name for name in names if name in OURS or name not in allowed)
        if refused:
            raise LoadFailed(
                f"vLLM arguments {', '.join(refused)} are not allowed: name them in "
                "vllm.allowed_extra (those that the driver sets itself never are)",
                kind=FailureKind.BAD_SETTINGS,
            )
        if not gpus:
            names.pop(SLEEP_SETTING, None)  # the CPU build refuses to start with it
        return names


def _is_work(labels: Mapping[str, str]) -> bool:
    """Whether a request was more than a look, and was let in."""
    return labels.get("method") == "POST" and not labels.get("status", "").startswith("4")


def _common(settings: LoadSettings) -> list[str]:
    given = {
        "--dtype": settings.dtype,
        "--kv-cache-dtype": settings.kv_dtype,
        "--quantization": settings.quantization,
        "--max-model-len": settings.max_model_len,
        "--max-num-seqs": settings.max_num_seqs,
    }
    words = [word for flag, value in given.items() if value for word in (flag, str(value))]
    if settings.tensor_parallel_size > 1:
        words += ["--tensor-parallel-size", str(settings.tensor_parallel_size)]
    return words


def _gpu_memory(request: LoadRequest) -> list[str]:
    """The share of each GPU that was booked: vLLM takes it whole, and 0.92 if not told.

    Rounded down, so that it never takes more than was booked.
    """
    share = min(
        request.reserve[device.id] / device.total_bytes
        for device in request.devices
        if device.total_bytes
    )
    utilization = min(MAX_UTILIZATION, math.floor(share * 10_000) / 10_000)
    words = ["--gpu-memory-utilization", f"{utilization:.4f}"]
    if request.settings.kv_cache_bytes:
        words += ["--kv-cache-memory-bytes", str(request.settings.kv_cache_bytes)]
    return words


def _cpu_memory(request: LoadRequest) -> list[str]:
    """What the reservation leaves for the KV cache; without it vLLM takes 4 GiB or more."""
    kv = request.settings.kv_cache_bytes
    if not kv:
        reserve = request.reserve[request.devices[0].id]
        kv = max(MIN_KV_BYTES, reserve - request.profile.weight_bytes - CPU_OVERHEAD_BYTES)
    return ["--kv-cache-memory-bytes", str(kv)]
