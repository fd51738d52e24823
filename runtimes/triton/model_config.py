"""Writes and completes Triton's ``config.pbtxt`` (no I/O here)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from modelium.errors import FailureKind, LoadFailed
from modelium.models import Device, ModelFormat, ModelProfile, TensorSpec

if TYPE_CHECKING:
    from tritonclient.grpc import model_config_pb2

BACKENDS = {
    ModelFormat.ONNX: "onnxruntime",
    ModelFormat.TORCHSCRIPT: "pytorch",
    ModelFormat.TENSORRT: "tensorrt",
    ModelFormat.OPENVINO: "openvino",
}
"""Backend of each format for which Modelium writes the configuration."""
NEEDS_TENSORS = frozenset({ModelFormat.TORCHSCRIPT})
"""Formats whose files do not declare their inputs and outputs."""
TOP_LEVEL_NAME = re.compile(r"""^name\s*:\s*(?:"[^"\n]*"|'[^'\n]*')[ \t]*,?;?""", re.MULTILINE)
INSTANCE_GROUP = re.compile(r"^instance_group\b", re.MULTILINE)


def generate(
    *,
    name: str,
    profile: ModelProfile,
    filename: str,
    device: Device,
    max_batch_size: int | None,
    memory_bytes: int | None,
    version: int | None = None,
) -> str:
    """Return the configuration for a model that came without one.

    Args:
        name: the model's, equal to the entry's folder.
        profile: format and tensors.
        filename: the main file within the version folder.
        device: runs its one instance.
        max_batch_size: upper bound of a batch; used only if all tensors have a batch dimension.
        memory_bytes: bound for ONNX Runtime's arena on a GPU.
        version: the only version folder to serve; None: the newest.

    Raises:
        LoadFailed: of kind `unsupported-architecture` for a format without a backend, of kind
            `bad-files` if the user has to declare inputs and outputs.
    """
    backend = BACKENDS.get(profile.format)
    if backend is None:
        raise LoadFailed(
            f"Triton has no backend for {profile.format} files", kind=FailureKind.UNSUPPORTED
        )
    known = bool(profile.inputs and profile.outputs)
    if not known and profile.format in NEEDS_TENSORS:
        raise LoadFailed(
            f"{profile.format} files do not declare their inputs and outputs: "
            "put a config.pbtxt beside the model",
            kind=FailureKind.BAD_FILES,
        )
    batch = max_batch_size if max_batch_size and known and _batchable(profile) else 0
    lines = [f"name: {_quoted(name)}", f"backend: {_quoted(backend)}"]
    lines.append(f"default_model_filename: {_quoted(filename)}")
    if known or batch:
        lines.append(f"max_batch_size: {batch}")
    if known:
        lines += _tensors("input", profile.inputs, batch > 0)
        lines += _tensors("output", profile.outputs, batch > 0)
    if batch:
        lines.append("dynamic_batching { }")
    if backend == "onnxruntime" and device.kind == "gpu" and memory_bytes:
        limit = _quoted(str(memory_bytes))
        lines.append(f'parameters {{ key: "gpu_mem_limit" value {{ string_value: {limit} }} }}')
    if version is not None:
        lines.append(f"version_policy {{ specific {{ versions: [ {version} ] }} }}")
    lines.append(_instances(device))
    return "\n".join(lines) + "\n"


def complete(text: str, *, name: str, device: Device) -> str:
    """Set name and, if missing, instance group in a configuration that came with the model.

    Triton refuses a name that differs from the folder's, and without an instance group it starts
    an instance on every GPU.
    """
    text = TOP_LEVEL_NAME.sub("", text, count=1).strip()
    lines = [f"name: {_quoted(name)}", text]
    if not INSTANCE_GROUP.search(text) and not re.search(r"^ensemble_scheduling\b", text, re.M):
        lines.append(_instances(device))
    return "\n".join(lines) + "\n"


def override(text: str, *, name: str, device: Device) -> str | None:
    """Return, as JSON, what `complete` makes of ``text``; None if ``text`` needs no change.

    For an entry whose ``config.pbtxt`` is not Modelium's to change.

    Raises:
        LoadFailed: of kind `bad-files` if ``text`` is no configuration.
    """
    from google.protobuf import json_format, text_format
    from tritonclient.grpc import model_config_pb2

    try:
        given = text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as exc:
        raise LoadFailed(
            f"config.pbtxt of {name} cannot be parsed: {exc}", kind=FailureKind.BAD_FILES
        ) from exc
    placed = given.instance_group or given.HasField("ensemble_scheduling")
    if given.name in ("", name) and placed:
        return None
    given.name = name
    if not placed:
        text_format.Merge(_instances(device), given)
    return str(json_format.MessageToJson(given, preserving_proto_field_name=True, indent=None))


def steps(text: str) -> list[str]:
    """Return the models that an ensemble's steps name; none for another configuration."""
    found = _parsed(text)
    return [step.model_name for step in found.ensemble_scheduling.step] if found else []


def runs_code(text: str) -> bool:
    """Whether the configuration has Triton run Python, or cannot be read."""
    found = _parsed(text)
    return found is None or found.backend == "python" or found.runtime.endswith(".py")


def _parsed(text: str) -> model_config_pb2.ModelConfig | None:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    try:
        return text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError:
        return None


def _batchable(profile: ModelProfile) -> bool:
    """Whether dimension 0 of every tensor is dynamic and not its only dimension."""
    return all(
        len(tensor.shape) >= 2 and tensor.shape[0] == -1
        for tensor in (*profile.inputs, *profile.outputs)
    )


def _tensors(role: str, tensors: Sequence[TensorSpec], batched: bool) -> Iterable[str]:
    for tensor in tensors:
        dims = tensor.shape[1:] if batched else tensor.shape
        kind = "TYPE_STRING" if tensor.dtype == "BYTES" else f"TYPE_{tensor.dtype}"
        # Triton has no scalars; it reshapes one-element tensors to them.
        shape = f"dims: {list(dims)}" if dims else "dims: [ 1 ] reshape { shape: [ ] }"
        yield f"{role} {{ name: {_quoted(tensor.name)} data_type: {kind} {shape} }}"


def _instances(device: Device) -> str:
    if device.kind == "gpu":
        return f"instance_group [ {{ count: 1 kind: KIND_GPU gpus: [ {device.index} ] }} ]"
    return "instance_group [ { count: 1 kind: KIND_CPU } ]"


def _quoted(text: str) -> str:
    """Quote for protobuf's text format; names from model files may contain anything."""
    plain = "".join(
        char if " " <= char < "\x7f" and char not in '"\\' else _escaped(char) for char in text
    )
    return f'"{plain}"'


def _escaped(char: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in char.encode())
