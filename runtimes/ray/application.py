"""Turns a load into a Ray Serve application: deployment options and replica spec (no I/O here)."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelium.errors import FailureKind, LoadFailed, NeedsApproval, Unsupported
from modelium.models import LoadSettings, ModelFormat, ModelProfile, Task, Upstream
from modelium.models.base import base_name
from modelium.models.runtimes import RAY_SERVE
from modelium.ports import LoadRequest
from runtimes.ray.replica.access import replica_key

MODEL_VARIABLE = "MODELIUM_MODEL"
DIGEST_VARIABLE = "MODELIUM_LOAD"
KIND_VARIABLE = "MODELIUM_KIND"
OWNER_VARIABLE = "MODELIUM_OWNER"
"""Environment variables of a replica: its application, the digest of the load, the kind of model,
and the Modelium that deployed it. Serve reports them, so that after a restart it can read them.
"""

CUSTOM = "custom"
"""The kind of an application of a drop's own code."""

CPUS = 0.01
"""Logical CPUs that Ray books for a replica: almost none, as Modelium does the admission."""
THREADS = 4
"""Upper bound of a replica's compute threads, so that other models get processor time."""
ONGOING = 64
"""Requests that a replica accepts at once; others wait in Serve's proxy."""
BATCH_WAIT_S = 0.005
"""How long a request waits for others to batch with."""
DRAIN_S = 60.0
"""How long Serve lets requests finish; an unload ends that after its own grace."""
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
"""Every key of `LoadSettings.extra` that this driver supports."""

PIPELINES = frozenset({Task.TEXT_GENERATION, Task.TOKEN_CLASSIFICATION})
KINDS = {
    Task.EMBEDDING: "embedding",
    Task.TEXT_CLASSIFICATION: "classification",
    Task.TEXT_RANKING: "ranking",
} | dict.fromkeys(PIPELINES, "pipeline")
OPENAI = frozenset({"embedding", "classification", "ranking", "image"})
"""Kinds that serve paths of OpenAI's API or its relatives."""


@dataclass(frozen=True, kw_only=True)
class Application:
    """A Serve application, ready to deploy."""

    name: str
    options: dict[str, Any]
    """Arguments of `serve.deployment(...).options`."""
    spec: dict[str, Any]
    """Argument of `replica.Replica`; of a user's application, what builds it."""
    python: str | None
    """Interpreter of its replicas; None for the cluster's own."""
    digest: str
    """Equal for loads that result in the same application."""

    @property
    def custom(self) -> bool:
        """Whether the code of the drop is the application."""
        return bool(self.spec["kind"] == CUSTOM)


def build_application(
    request: LoadRequest,
    *,
    python: str | None,
    cpus: int,
    node_ip: str | None,
    health_timeout_s: float,
    owner: str = "",
    token_path: Path | None = None,
    prefix: str = "",
) -> Application:
    """Return the application for a load.

    Args:
        request: the load.
        python: interpreter for what Modelium's own cannot run (torch, ONNX on a GPU).
        cpus: cores of the machine.
        node_ip: the Ray node that has the devices; None for a cluster of one node.
        health_timeout_s: bound of each of Serve's health checks of a replica; three that fail in
            a row end it.
        owner: identifies this Modelium among others on the cluster.
        token_path: what the key derives from that requests need; None: they need none.
        prefix: of its name and its route, where several nodes have applications on one cluster.

    Raises:
        Unsupported: Ray Serve does not serve such a model.
        NeedsApproval: the model contains code that is not approved.
        LoadFailed: a setting or the environment is wrong.
    """
    settings, profile, name = request.settings, request.profile, f"{prefix}{request.model}"
    kind = _kind(profile, request.allow_remote_code)
    if kind not in ("onnx", CUSTOM) and python is None:
        raise LoadFailed(
            f"{profile.task} models need torch: set ray_serve.python to the interpreter of an "
            "environment with ray, torch and transformers",
            kind=FailureKind.ENVIRONMENT,
        )
    if len(request.devices) != 1 or settings.tensor_parallel_size != 1:
        raise Unsupported(
            "Ray Serve cannot split a model over several devices: use vLLM for tensor parallelism"
        )
    _check_extra(settings)
    device = request.devices[0]
    gpu = device.kind == "gpu"
    replicas = int(settings.extra.get("max_replicas", 1))
    memory = request.reserve[device.id] // replicas  # the replicas share one booking
    share = min(1.0, memory / device.total_bytes)
    threads = int(settings.extra.get("threads", min(THREADS, cpus)))
    spec: dict[str, Any] = {
        "model": base_name(request.model),  # what clients call it
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
        "token_path": str(token_path) if token_path else None,
    }
    if kind == CUSTOM:
        spec |= {
            "import_path": profile.details["import_path"],
            "args": {**profile.details["args"], "model_path": request.path},
        }
    actor: dict[str, Any] = {"num_cpus": float(settings.extra.get("num_cpus", CPUS))}
    if gpu:
        # Rounded down to Ray's resolution (1/10000), so that what Modelium booked always fits.
        actor["num_gpus"] = max(math.floor(share * 10_000), 1) / 10_000
    if node_ip is not None:
        actor["resources"] = {f"node:{node_ip}": 0.001}
        if not gpu:
            actor["memory"] = memory
    if kind == "onnx" and not gpu:
        python = None  # Modelium's own environment has onnxruntime
    options = _options(settings, replicas) | {"health_check_timeout_s": health_timeout_s}
    digest = hashlib.sha256(
        json.dumps([spec, actor, options, python], sort_keys=True).encode()
    ).hexdigest()[:16]
    variables = {
        MODEL_VARIABLE: name,
        DIGEST_VARIABLE: digest,
        KIND_VARIABLE: kind,
        OWNER_VARIABLE: owner,
        "OMP_NUM_THREADS": str(threads),  # Ray's default: the booked CPUs, at least 1
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if gpu:
        # Keep Ray from choosing a GPU itself: Modelium has placed the model.
        variables["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"] = "1"
        variables["CUDA_VISIBLE_DEVICES"] = device.uuid
    if kind == CUSTOM:
        variables["PYTHONPATH"] = request.path
        variables["PYTHONDONTWRITEBYTECODE"] = "1"  # the drop's files stay as they are
    actor["runtime_env"] = {"env_vars": variables}
    if python is not None:
        actor["runtime_env"]["py_executable"] = python
    options["ray_actor_options"] = actor
    return Application(name=name, options=options, spec=spec, python=python, digest=digest)


def upstream(
    model: str,
    *,
    kind: str,
    host: str,
    port: int,
    token_path: Path | None = None,
    prefix: str = "",
) -> Upstream:
    """Return the address of a model of ``kind`` (as in the spec) behind Serve's proxy.

    ``token_path``: of Modelium's own cluster; applications of users get no key. ``prefix``: of its
    application's name.
    """
    own = token_path is not None
    return Upstream(
        host=host,
        port=port,
        prefix=f"/{prefix}{model}",
        served_name=base_name(model),
        apis=RAY_SERVE.apis if kind in OPENAI | {CUSTOM} else RAY_SERVE.apis - {"openai"},
        api_key=replica_key(token_path, base_name(model))
        if token_path and kind != CUSTOM
        else None,
        user=os.getuid() if own else None,
    )


def _kind(profile: ModelProfile, allow_remote_code: bool) -> str:
    if profile.format == ModelFormat.ONNX:
        return "onnx"
    kind = "image" if profile.format == ModelFormat.DIFFUSERS else None
    if profile.format == ModelFormat.CUSTOM:
        kind = CUSTOM
    if profile.format == ModelFormat.TRANSFORMERS:
        kind = KINDS.get(profile.task)
    if kind == "ranking" and not profile.architecture.endswith("ForSequenceClassification"):
        kind = None  # a generator that ranks
    if kind is None:
        known = ", ".join(sorted(KINDS))
        raise Unsupported(
            f"Ray Serve serves ONNX, diffusers pipelines, and transformers folders for {known}; "
            f"this is {profile.format} for {profile.task}"
        )
    if profile.needs_remote_code and not allow_remote_code:
        raise NeedsApproval("the model contains Python code: approve `remote-code` for it first")
    if profile.quantization is not None:
        raise Unsupported(f"Ray Serve does not load {profile.quantization} weights: use vLLM")
    return kind


def _check_extra(settings: LoadSettings) -> None:
    if unknown := sorted(set(settings.extra) - EXTRA):
        raise LoadFailed(
            f"unknown settings {', '.join(unknown)}: Ray Serve supports {', '.join(sorted(EXTRA))}",
            kind=FailureKind.BAD_SETTINGS,
        )
    for name, value in settings.extra.items():
        if isinstance(value, bool | str) or value < 0 or (name == "max_replicas" and value < 1):
            raise LoadFailed(
                f"{name} must be a number of at least {int(name == 'max_replicas')}",
                kind=FailureKind.BAD_SETTINGS,
            )


def _options(settings: LoadSettings, replicas: int) -> dict[str, Any]:
    extra = settings.extra
    options: dict[str, Any] = {
        "name": "model",
        "max_ongoing_requests": max(ONGOING, settings.max_num_seqs or 1),
        "graceful_shutdown_timeout_s": DRAIN_S,
        "graceful_shutdown_wait_loop_s": 0.2,
        "health_check_period_s": HEALTH_PERIOD_S,
        # A constructor that raised would raise again: the folder does not change.
        "max_constructor_retry_count": 1,
    }
    options |= {name: int(value) for name, value in extra.items() if name in OPTIONS}
    scaling = {name: value for name, value in extra.items() if name in AUTOSCALING}
    if scaling:
        options["autoscaling_config"] = scaling | {"max_replicas": replicas}
    else:
        options["num_replicas"] = 1
    return options
