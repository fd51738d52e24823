"""``modelium analyze`` and ``modelium estimate``: properties of a model, without a service."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from modelium.cli.options import ConfigFile, Json
from modelium.cli.output import WRONG_INPUT, print_json
from modelium.config.loading import load
from modelium.errors import DropRejected
from modelium.models import GIB, Footprint, ModelFormat, ModelProfile, RuntimeName

PathArgument = Annotated[Path, typer.Argument(help="Model folder, model file or config.json.")]
ApproveOption = Annotated[
    list[str] | None,
    typer.Option(
        "--approve",
        help="Also analyze a folder with `pickle` files. They are never opened.",
    ),
]


_USUAL = {
    ModelFormat.GGUF: RuntimeName.LLAMA_CPP,
    ModelFormat.ONNX: RuntimeName.TRITON,
    ModelFormat.TRITON: RuntimeName.TRITON,
    ModelFormat.TORCHSCRIPT: RuntimeName.TRITON,
    ModelFormat.TENSORRT: RuntimeName.TRITON,
    ModelFormat.OPENVINO: RuntimeName.TRITON,
    ModelFormat.DIFFUSERS: RuntimeName.RAY_SERVE,
    ModelFormat.CUSTOM: RuntimeName.RAY_SERVE,
}
"""The runtime that `estimate` assumes, where it is not vLLM."""

_DEVICE = re.compile(
    r"^(cpu|gpu)$|nvidia|tesla|quadro|rtx|gtx|titan|\b[abhlptv]\d{1,4}s?\b|g[bh]\d{2,3}|geforce"
    r"|jetson|orin|thor|radeon|instinct|\bmi\d{2,3}",
    re.IGNORECASE,
)
"""`cpu`, `gpu`, or what a GPU's product name has in it."""

_DEVICES = {"cpu": "CPU", "gpu": "a large GPU"}
ASSUMED = " (assumed; --device names another)"


def register(app: typer.Typer) -> None:
    """Add both commands to ``app``."""
    app.command("analyze")(analyze_command)
    app.command("estimate")(estimate_command)


def _profile(
    path: Path, approve: list[str] | None, engines: Any = None, *, as_json: bool
) -> ModelProfile:
    from modelium.analysis import analyze
    from modelium.intake.names import ARCHIVES

    # Code in the folder is reported as needs_remote_code and never run.
    approvals = frozenset({"remote-code", *(approve or ())})
    if path.is_file() and path.name.endswith(ARCHIVES):
        message = f"{path.name} is an archive: unpack it and name the folder, or drop it as it is."
        _refuse(DropRejected(message, reason="archive"), as_json=as_json)
    try:
        return analyze(path, approvals=approvals, engines=engines)
    except DropRejected as exc:
        _refuse(exc, as_json=as_json)


def _refuse(exc: DropRejected, *, as_json: bool) -> NoReturn:
    if as_json:
        print_json({"rejected": {"reason": exc.reason, "message": str(exc)}})
    typer.echo(f"rejected ({exc.reason}): {exc}", err=True)
    raise typer.Exit(WRONG_INPUT) from exc


def analyze_command(
    path: PathArgument,
    as_json: Json = False,
    approve: ApproveOption = None,
    digest: Annotated[
        bool,
        typer.Option("--digest", help="Also print the content digest (reads every file)."),
    ] = False,
    vllm: Annotated[
        Path | None,
        typer.Option(help="The vllm command whose list of supported architectures to use."),
    ] = None,
    ray_python: Annotated[
        Path | None,
        typer.Option(help="Python of Ray Serve replicas (ray_serve.python)."),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Show format, size and architecture of a model and which runtimes can serve it."""
    from modelium.analysis import digest as digest_of
    from modelium.analysis import read_catalog
    from modelium.stages.engine_catalog import engines

    if vllm or ray_python:
        installed = read_catalog(vllm=vllm, ray_python=ray_python)
    else:
        installed = engines(load(config, os.environ))
    profile = _profile(path, approve, installed, as_json=as_json)
    if digest:
        try:
            profile = profile.model_copy(update={"digest": digest_of(path)})
        except DropRejected as exc:
            _refuse(exc, as_json=as_json)
    if as_json:
        print_json(summary(profile))
        return
    _table(profile)


def summary(profile: ModelProfile) -> dict[str, Any]:
    """Return the documented fields of ``profile``, with its digest if it has one."""
    found: dict[str, Any] = {
        "architecture": profile.architecture,
        "task": profile.task.value,
        "format": profile.format.value,
        "parameter_count": profile.parameter_count,
        "weight_bytes": profile.weight_bytes,
        "dtype": profile.dtype,
        "quantization": profile.quantization,
        "context_length": profile.context_length,
        "kv_bytes_per_token": profile.kv_bytes_per_token,
        "tensor_parallel_degrees": list(profile.tensor_parallel_degrees),
        "needs_remote_code": profile.needs_remote_code,
        "runtimes": {
            support.runtime.value: {"supported": support.supported, "reason": support.reason}
            for support in profile.runtimes
        },
    }
    if profile.digest:
        found["digest"] = profile.digest
    return found


def _table(profile: ModelProfile) -> None:
    exactness = "from file headers" if profile.exact else "estimated from config.json"
    parameters = f"{profile.parameter_count:,}" if profile.parameter_count else "unknown"
    rows = [
        ("format", profile.format.value),
        ("architecture", profile.architecture),
        ("task", profile.task.value),
        ("parameters", parameters),
        ("weights", f"{profile.weight_bytes / GIB:.2f} GiB ({exactness})"),
        ("dtype", profile.dtype or "unknown"),
        ("quantization", profile.quantization or "none"),
        ("context", str(profile.context_length or "unknown")),
        ("KV per token", f"{(profile.kv_bytes_per_token or 0) / 1024:.1f} KiB"),
        ("tensor parallel", ", ".join(map(str, profile.tensor_parallel_degrees))),
        (
            "remote code",
            "required; an operator must approve it" if profile.needs_remote_code else "no",
        ),
        ("licence", profile.license or "unknown"),
    ]
    if profile.base_model:
        rows.append(("base model", profile.base_model))
    if profile.digest:
        rows.append(("digest", profile.digest))
    rows += [
        (support.runtime.value, "yes" if support.supported else f"no: {support.reason}")
        for support in profile.runtimes
    ]
    for name, value in rows:
        typer.echo(f"{name:16} {value}")


def estimate_command(
    path: PathArgument,
    runtime: Annotated[
        RuntimeName | None, typer.Option(help="Runtime. Default: the usual one for its format.")
    ] = None,
    engine_version: Annotated[
        str | None, typer.Option(help="Engine version, e.g. 0.19.0. Default: the newest known.")
    ] = None,
    tp: Annotated[int, typer.Option(min=1, max=1024, help="Tensor-parallel degree.")] = 1,
    max_model_len: Annotated[
        int | None, typer.Option(min=1, help="Context length in tokens. Default: the model's.")
    ] = None,
    max_num_seqs: Annotated[
        int | None, typer.Option(min=1, help="Concurrent sequences. Default: the engine's.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="auto, bfloat16, float16 or float32. Default: auto.")
    ] = None,
    kv_dtype: Annotated[
        str | None, typer.Option(help="auto or fp8. Default: same as the weights.")
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(help="Quantization that the engine applies while loading: fp8, bitsandbytes."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="`cpu` or the product name of a GPU. Default: a large GPU, or `cpu` on a machine "
            "without one, but for vLLM."
        ),
    ] = None,
    as_json: Json = False,
    approve: ApproveOption = None,
) -> None:
    """Estimate the memory that a model needs on each GPU, by component."""
    from modelium.analysis import estimate, kv_bytes

    if device and not _DEVICE.search(device):
        raise typer.BadParameter(
            f"{device!r} is neither cpu, gpu nor the product name of a GPU such as 'NVIDIA L4'",
            param_hint="--device",
        )
    profile = _profile(path, approve, as_json=as_json)
    runtime = runtime or _USUAL.get(profile.format, RuntimeName.VLLM)
    assumed = device or ("gpu" if runtime is RuntimeName.VLLM or _has_gpus() else "cpu")
    found = estimate(
        profile,
        runtime=runtime,
        tensor_parallel=tp,
        dtype=dtype,
        kv_dtype=kv_dtype,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        engine_version=engine_version,
        device_kind=assumed,
        quantization=quantization,
    )
    per_thousand = kv_bytes(
        profile, 1000, tensor_parallel=tp, dtype=dtype, kv_dtype=kv_dtype, state=False
    )
    values = parts(found, per_thousand)
    if as_json:
        print_json(values)
        return
    typer.echo(f"{'device':24} {_DEVICES.get(assumed, assumed)}{'' if device else ASSUMED}")
    for name, value in values.items():
        typer.echo(f"{name:24} {value:10.3f}")
    typer.echo(
        f"\nFootprint and reserve exclude the KV cache, which needs {found.kv / GIB:.3f} GiB with "
        f"these settings: {found.reserve / GIB:.3f} GiB are booked on each GPU."
    )
    if tp not in profile.tensor_parallel_degrees:
        degrees = ", ".join(map(str, profile.tensor_parallel_degrees))
        typer.echo(f"--tp {tp} is not supported by this model; it supports {degrees}.", err=True)


def _has_gpus() -> bool:
    """Whether this machine has NVIDIA GPUs; a driver that does not answer speaks for them."""
    from modelium.devices.bounded import answered
    from modelium.devices.nvml import find_gpus
    from modelium.errors import Unavailable

    try:
        return answered(lambda: find_gpus("")) is not None
    except Unavailable:
        return True


def parts(found: Footprint, kv_per_thousand: int) -> dict[str, float]:
    """Return GiB per GPU by component; footprint and reserve exclude the KV cache."""

    def gib(value: float) -> float:
        return round(value / GIB, 4)

    return {
        "weights_gib": gib(found.weights),
        "activation_gib": gib(found.activation),
        "non_torch_gib": gib(found.non_torch),
        "cuda_graph_gib": gib(found.graphs),
        "kv_gib_per_1k_tokens": round(kv_per_thousand / GIB, 6),
        "footprint_gib": gib(found.expected - found.kv),
        "reserve_gib": gib(found.reserve - found.kv),
    }
