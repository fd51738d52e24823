"""The command line of `vllm serve`, and how to read its log and metrics (no I/O here)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from modelium.config import Vllm
from modelium.errors import FailureKind, LoadFailed
from modelium.models import GIB, Device, LoadSettings, RuntimeName
from modelium.models.base import base_name
from modelium.models.runtimes import VLLM
from modelium.models.settings import RESERVED, Value
from modelium.ports import EngineStats, LoadRequest
from runtimes.engines.probe import openai_probe
from runtimes.engines.sleep import SLEEP_SETTING
from runtimes.loading.failure_kind import Rules, classify
from runtimes.loading.prometheus_text import samples
from runtimes.loading.settings import allowed_arguments, complete, flags
from runtimes.process.supervisor import Command
from runtimes.vllm.families import family_arguments
from runtimes.vllm.guard import guard_arguments, guard_environment
from runtimes.vllm.installation import Installation
from runtimes.vllm.retry import MIN_KV_BYTES, smaller
from runtimes.vllm.span import check_devices, span_arguments, span_environment

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "PYTHONUNBUFFERED": "1",
}
CPU_ENVIRONMENT = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""By default vLLM pins the workers of all engines to the same cores."""
DEV_MODE = {"VLLM_SERVER_DEV_MODE": "1"}
"""Without it vLLM does not offer /sleep and /wake_up."""

CPU_OVERHEAD_BYTES = int(1.5 * GIB)
"""Resident memory of a CPU engine besides weights and KV cache (1.4–1.5 GB measured with 0.32)."""
MAX_UTILIZATION = 0.99

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
        r"CUDA driver version is insufficient|Failed to infer device type|"
        r"Unexpected error from cudaGetDeviceCount",
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


class VllmRecipe:
    """`runtimes.engines.recipe.EngineRecipe` of vLLM."""

    name = RuntimeName.VLLM

    def __init__(
        self,
        *,
        config: Vllm,
        executable: str,
        installation: Callable[[], Installation] = Installation,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            config: the section of the configuration.
            executable: absolute path of the command, or its name if it was not found.
            installation: returns what the installed release accepts; an upgrade may change it.
        """
        self._config = config
        self._executable = executable
        self._installation = installation

    @property
    def sleeps(self) -> bool:
        """Whether engines are started with sleep mode on."""
        return self._config.default_settings.get(SLEEP_SETTING) is True

    @property
    def spans_nodes(self) -> bool:
        """Whether the installed release takes the options for several nodes (0.12 and later)."""
        installation = self._installation()
        return all(map(installation.accepts, ("--nnodes", "--node-rank", "--headless")))

    def complete(self, request: LoadRequest) -> LoadRequest:
        """Fill unset settings from the configured defaults."""
        settings = complete(
            request.settings,
            self._config.default_settings,
            context_length=request.profile.context_length,
        )
        return replace(request, settings=settings)

    def command(self, request: LoadRequest, *, host: str, port: int, key: str) -> Command:
        """See `EngineRecipe.command`; the key is passed in VLLM_API_KEY."""
        settings, gpus = request.settings, request.devices[0].kind == "gpu"
        check_devices(request)
        arguments = [
            *(self._executable, "serve", request.path),
            *("--host", host, "--port", str(port)),
            *("--served-model-name", base_name(request.model)),
            *guard_arguments(self._config.allowed_media_domains, self._installation()),
            *_common(settings),
            *(span_arguments(request.span) if request.span else ()),
            *(_gpu_memory(request) if gpus else _cpu_memory(request)),
            *flags(self._extra(request, gpus)),
        ]
        if request.allow_remote_code:
            arguments.append("--trust-remote-code")
        environment = {**ENVIRONMENT, "VLLM_API_KEY": key}
        if gpus:
            environment |= visible_devices(request.devices, self._installation())
        else:
            environment |= CPU_ENVIRONMENT
        if request.span:
            environment |= span_environment(request.span)
        if self.sleeps:
            environment |= DEV_MODE
        environment = guard_environment(environment | self._config.environment)
        return Command(argv=tuple(arguments), environment=environment)

    def phase(self, line: str) -> tuple[str, float | None] | None:
        """See `EngineRecipe.phase`."""
        for name, pattern in PHASES:
            match = pattern.search(line)
            if match:
                share = int(match[1]) / 100 if match.groups() and match[1] else None
                return name, share
        return None

    def probe(self, request: LoadRequest) -> tuple[str, dict[str, Any]] | None:
        """Ask for one token or one embedding, by the model's task."""
        return openai_probe(request)

    def failure(self, lines: Sequence[str], code: int | None) -> FailureKind:
        """See `EngineRecipe.failure`; vLLM's exit status says little: it is often 1, even 0."""
        return classify(lines, code, FAILURES)

    def smaller(self, request: LoadRequest, lines: Sequence[str]) -> LoadRequest | None:
        """See `runtimes.vllm.retry.smaller`."""
        return smaller(request, lines)

    def stats(self, metrics: str) -> EngineStats:
        """See `EngineRecipe.stats`."""
        counts = dict.fromkeys(COUNTERS.values(), 0)
        completed = failed = answered = 0
        kv_usage, latency, queue = None, 0.0, 0.0
        for name, labels, value in samples(metrics):
            if name in COUNTERS:
                counts[COUNTERS[name]] += int(value)
            elif name == "vllm:request_success_total":
                if labels.get("finished_reason") in FAILED_REASONS:
                    failed += int(value)
                else:
                    completed += int(value)
            elif name == "http_requests_total" and _is_inference(labels):
                answered += int(value)  # the counter above counts each prompt of a request
            elif name == "vllm:kv_cache_usage_perc":
                kv_usage = max(kv_usage or 0.0, value)
            elif name == "vllm:e2e_request_latency_seconds_sum":
                latency += value
            elif name == "vllm:request_queue_time_seconds_sum":
                queue += value
        return EngineStats(
            **counts,
            completed=completed,
            failed=failed,
            http_requests=answered or None,
            latency_sum_s=latency,
            queue_sum_s=queue,
            kv_usage=kv_usage,
        )

    def _extra(self, request: LoadRequest, gpus: bool) -> dict[str, Value]:
        """Return the arguments that follow from the model, the operator and the plan."""
        allowed = (
            *self._config.allowed_extra,
            *self._config.default_settings,
            *request.operator_settings,
        )
        given = allowed_arguments(
            request.settings.extra, runtime=VLLM, allowed=allowed, reserved=RESERVED
        )
        if not gpus:
            given.pop(SLEEP_SETTING, None)  # the CPU build refuses to start with it
        installation = self._installation()
        unknown = [
            word
            for name in sorted(given)
            if not installation.accepts(word := "--" + name.replace("_", "-"))
        ]
        if unknown:
            raise LoadFailed(
                f"vLLM {installation.version} has no option {', '.join(unknown)}: remove it from "
                "the settings of vLLM or of the model, or use another release",
                kind=FailureKind.BAD_SETTINGS,
            )
        return family_arguments(request.profile, installation, given) | given


def visible_devices(devices: Sequence[Device], installation: Installation) -> dict[str, str]:
    """Return the variables that show ``devices`` alone to an engine.

    By UUID where the release reads UUIDs, because indices shift when a GPU drops off the bus; else
    by NVML's index, which CUDA shares only in the order of the bus.
    """
    uuids = installation.takes_uuids or any(d.uuid.startswith("MIG-") for d in devices)
    names = [d.uuid if uuids else str(d.index) for d in devices]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def _is_inference(labels: Mapping[str, str]) -> bool:
    """Whether a request asked for work and was admitted."""
    return labels.get("method") == "POST" and not labels.get("status", "").startswith("4")


def _common(settings: LoadSettings) -> list[str]:
    given = {
        "--dtype": settings.dtype,
        "--kv-cache-dtype": settings.kv_dtype,
        "--quantization": settings.quantization,
        "--max-model-len": settings.max_model_len,
        "--max-num-seqs": settings.max_num_seqs,
    }
    arguments = [word for flag, value in given.items() if value for word in (flag, str(value))]
    if settings.tensor_parallel_size > 1:
        arguments += ["--tensor-parallel-size", str(settings.tensor_parallel_size)]
    if settings.pipeline_parallel_size > 1:
        arguments += ["--pipeline-parallel-size", str(settings.pipeline_parallel_size)]
    return arguments


def _gpu_memory(request: LoadRequest) -> list[str]:
    """Return the booked share of each GPU: vLLM takes all of it, and 0.92 by default.

    It is rounded down, so that vLLM never takes more than was booked.
    """
    share = min(
        request.reserve[device.id] / device.total_bytes
        for device in request.devices
        if device.total_bytes
    )
    utilization = min(MAX_UTILIZATION, math.floor(share * 10_000) / 10_000)
    arguments = ["--gpu-memory-utilization", f"{utilization:.4f}"]
    if request.settings.kv_cache_bytes:
        arguments += ["--kv-cache-memory-bytes", str(request.settings.kv_cache_bytes)]
    return arguments


def _cpu_memory(request: LoadRequest) -> list[str]:
    """Give the KV cache what the booking leaves; without a value vLLM takes 4 GiB or more."""
    kv = request.settings.kv_cache_bytes
    if not kv:
        reserve, settings = request.reserve[request.devices[0].id], request.settings
        parts = settings.tensor_parallel_size * settings.pipeline_parallel_size
        weights = request.profile.weight_bytes // parts
        kv = max(MIN_KV_BYTES, reserve - weights - CPU_OVERHEAD_BYTES)
    return ["--kv-cache-memory-bytes", str(kv)]
