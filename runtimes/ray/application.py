"""What one model becomes in Ray Serve: deployment options and the replica's spec (no I/O here)."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

from modelium.errors import FailureKind, LoadFailed, NeedsApproval, Unsupported
from modelium.models import LoadSettings, ModelFormat, ModelProfile, Task, Upstream
from modelium.ports import LoadRequest

MODEL_VARIABLE = "MODELIUM_MODEL"
DIGEST_VARIABLE = "MODELIUM_LOAD"
KIND_VARIABLE = "MODELIUM_KIND"
"""Environment of a replica: whose it is, the digest of what it was asked to be, and its kind.
Serve shows them, so that they can be read back after a restart."""

CPUS = 0.01
"""Logical CPUs that a replica books: admission is Modelium's business, so next to nothing."""
THREADS = 4
"""Most compute threads of one replica, so that neighbours get a turn."""
ONGOING = 64
"""Requests that one replica takes at once; the others wait in Serve's proxy."""
BATCH_WAIT_S = 0.005
"""How long a request waits for company where batching is on."""
DRAIN_S = 60.0
"""Serve's own bound on finishing requests; `RayServe.unload` cuts it short by its grace."""
HEALTH_PERIOD_S = 5.0

AUTOSCALING = frozenset(
    {
        "min_replicas",
        "max_replicas",
        "initial_replicas",
        "target_ongoing_requests",
        "upscale_delay_s",
        "downscale_delay_s",
    }
)
OPTIONS = frozenset({"max_ongoing_requests", "max_queued_requests"})
EXTRA = AUTOSCALING | OPTIONS | {"num_cpus", "threads", "batch_wait_s"}
"""Every `LoadSettings.extra` that this driver knows."""

PIPELINES = frozenset({Task.TEXT_GENERATION, Task.TOKEN_CLASSIFICATION})
KINDS = {Task.EMBEDDING: "embedding", Task.TEXT_CLASSIFICATION: "classification"} | dict.fromkeys(
    PIPELINES, "pipeline"
)


@dataclass(frozen=True, kw_only=True)
class Application:
    """Ready to deploy."""

    name: str
    options: dict[str, Any]
    """Arguments of `serve.deployment(...).options`."""
    spec: dict[str, Any]
    """Argument of `runtimes.ray.replica.Replica`."""
    python: str | None
    """Interpreter of its replicas; ``None``: the cluster's own."""
    digest: str
    """Same digest: the same application, so that a second load joins the first."""


def compose(
    request: LoadRequest, *, python: str | None, cpus: int, node_ip: str | None
) -> Application:
    """Turn a load into an application.

    ``python``: interpreter for what Modelium's own cannot run (torch, ONNX on a GPU); ``cpus``:
    cores of the machine; ``node_ip``: the Ray node that holds the devices, ``None`` where
    there is one only.

    Raises:
        Unsupported, NeedsApproval: this driver does not serve such a model (as it is).
        LoadFailed: the settings or the environment are wrong.
    """
    settings, profile = request.settings, request.profile
    kind = _kind(profile, request.allow_remote_code)
    if kind != "onnx" and python is None:
        raise LoadFailed(
            f"{profile.task} models need torch: set ray_serve.python to the interpreter of an "
            "environment with ray, torch and transformers",
            kind=FailureKind.ENVIRONMENT,
        )
    if len(request.devices) != 1 or settings.tensor_parallel_size != 1:
        raise Unsupported("Ray Serve takes a model on one device: use vLLM for tensor parallelism")
    _check_extra(settings)
    device = request.devices[0]
    gpu = device.kind == "gpu"
    replicas = int(settings.extra.get("max_replicas", 1))
    memory = request.reserve[device.id] // replicas  # all replicas live off one booking
    share = min(1.0, memory / device.total_bytes)
    threads = int(settings.extra.get("threads", min(THREADS, cpus)))
    spec = {
        "model": request.model,
        "version": request.version,
        "path": request.path,
        "kind": kind,
        "task": str(profile.task),
        "file": profile.files.get("model", "model.onnx") if kind == "onnx" else "",
        "gpu": gpu,
        "memory_bytes": memory,
        "gpu_fraction": share,
        "threads": threads,
        "dtype": settings.dtype,
        "remote_code": request.allow_remote_code,
        "max_batch": settings.max_num_seqs or 1,
        "batch_wait_s": float(settings.extra.get("batch_wait_s", BATCH_WAIT_S)),
    }
    actor: dict[str, Any] = {"num_cpus": float(settings.extra.get("num_cpus", CPUS))}
    if gpu:
        # Rounded down to what Ray can count (1/10000), so that what Modelium placed still fits.
        actor["num_gpus"] = max(math.floor(share * 10_000), 1) / 10_000
    if node_ip is not None:
        actor["resources"] = {f"node:{node_ip}": 0.001}
        if not gpu:
            actor["memory"] = memory
    if kind == "onnx" and not gpu:
        python = None  # Modelium's own environment has all that it takes
    options = _options(settings, replicas)
    digest = hashlib.sha256(
        json.dumps([spec, actor, options, python], sort_keys=True).encode()
    ).hexdigest()[:16]
    variables = {
        MODEL_VARIABLE: request.model,
        DIGEST_VARIABLE: digest,
        KIND_VARIABLE: kind,
        "OMP_NUM_THREADS": str(threads),  # Ray would set it to the booked CPUs, that is 1
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if gpu:
        # Ray would choose a GPU by its own count; Modelium has decided already.
        variables["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"] = "1"
        variables["CUDA_VISIBLE_DEVICES"] = device.uuid
    actor["runtime_env"] = {"env_vars": variables}
    if python is not None:
        actor["runtime_env"]["py_executable"] = python
    options["ray_actor_options"] = actor
    return Application(name=request.model, options=options, spec=spec, python=python, digest=digest)


def upstream(model: str, *, kind: str, host: str, port: int) -> Upstream:
    """Where a model of ``kind`` (as in the spec) answers behind Serve's proxy."""
    return Upstream(
        host=host,
        port=port,
        prefix=f"/{model}",
        served_name=model,
        apis=frozenset({"openai", "kserve", "generic"})
        if kind == "embedding"
        else frozenset({"kserve", "generic"}),
    )


def _kind(profile: ModelProfile, allow_remote_code: bool) -> str:
    if profile.format == ModelFormat.ONNX:
        return "onnx"
    kind = "image" if profile.format == ModelFormat.DIFFUSERS else None
    if profile.format == ModelFormat.TRANSFORMERS:
        kind = KINDS.get(profile.task)
    if kind is None:
        known = ", ".join(sorted(KINDS))
        raise Unsupported(
            f"Ray Serve takes ONNX, diffusers pipelines, and transformers folders for {known}; "
            f"this is {profile.format} for {profile.task}"
        )
    if profile.needs_remote_code and not allow_remote_code:
        raise NeedsApproval("the model brings Python code: approve `remote-code` for it first")
    if profile.quantization is not None:
        raise Unsupported(f"Ray Serve does not load {profile.quantization} weights: use vLLM")
    return kind


def _check_extra(settings: LoadSettings) -> None:
    if unknown := sorted(set(settings.extra) - EXTRA):
        raise LoadFailed(
            f"unknown settings {', '.join(unknown)}: Ray Serve takes {', '.join(sorted(EXTRA))}",
            kind=FailureKind.BAD_SETTINGS,
        )
    for name, value in settings.extra.items():
        if isinstance(value, bool | str) or value < 0 or (name == "max_replicas" and value < 1):
            raise LoadFailed(f"{name} must be a number from 0 up", kind=FailureKind.BAD_SETTINGS)


def _options(settings: LoadSettings, replicas: int) -> dict[str, Any]:
    extra = settings.extra
    options: dict[str, Any] = {
        "name": "model",
        "max_ongoing_requests": max(ONGOING, settings.max_num_seqs or 1),
        "graceful_shutdown_timeout_s": DRAIN_S,
        "graceful_shutdown_wait_loop_s": 0.2,
        "health_check_period_s": HEALTH_PERIOD_S,
        # What a constructor raises, it raises again: the folder does not change.
        "max_constructor_retry_count": 1,
    }
    options |= {name: int(value) for name, value in extra.items() if name in OPTIONS}
    scaling = {name: value for name, value in extra.items() if name in AUTOSCALING}
    if scaling:
        options["autoscaling_config"] = scaling | {"max_replicas": replicas}
    else:
        options["num_replicas"] = 1
    return options
