"""ONNX models, with or without external data."""

from __future__ import annotations

from typing import Any

from modelium.analysis.catalog import EngineCatalog, assess
from modelium.analysis.describe import card_of, task_of
from modelium.analysis.readers.folder import Folder, shown
from modelium.analysis.readers.onnx_graph import Graph, read_graph
from modelium.errors import DropRejected
from modelium.models import ModelFormat, ModelProfile, Task

_PREFERRED = ("model.onnx", "onnx/model.onnx", "model_quantized.onnx", "1/model.onnx")


def profile_onnx(folder: Folder, engines: EngineCatalog) -> ModelProfile:
    """Return the profile of the folder's ONNX model; raises `DropRejected`."""
    name = _main(folder)
    graph = folder.parse(name, read_graph)
    external = check_external(folder, name, graph)
    license_id, card = card_of(folder)
    config = folder.json("config.json") if "config.json" in folder else {}
    names = config.get("architectures")
    architecture = names[0] if isinstance(names, list) and names else ""
    task = task_of(config, str(architecture)) if config else Task.GENERIC
    floats = {k: v for k, v in graph.bytes_by_dtype.items() if k in {"F32", "F16", "BF16", "F64"}}
    quantized = sum(graph.bytes_by_dtype.get(k, 0) for k in ("U8", "I8", "U4", "I4"))
    dtype = max(floats, key=lambda k: floats[k]) if floats else None
    details: dict[str, Any] = {
        "opsets": graph.opsets,
        "producer": shown(graph.producer),
        "nodes": graph.nodes,
        "operator_domains": sorted(shown(d) for d in graph.domains if d)[:32],
    }
    if external:
        details["external_data"] = external
    return ModelProfile(
        format=ModelFormat.ONNX,
        architecture="onnx",
        task=task,
        parameter_count=graph.parameters,
        weight_bytes=sum(graph.bytes_by_dtype.values()),
        weight_bytes_by_dtype=graph.bytes_by_dtype,
        dtype={"F32": "float32", "F16": "float16", "BF16": "bfloat16"}.get(dtype or ""),
        quantization="int8" if quantized > sum(floats.values()) else None,
        inputs=tuple(graph.inputs),
        outputs=tuple(graph.outputs),
        files={"model": name},
        runtimes=assess(
            format=ModelFormat.ONNX,
            task=task,
            architecture="onnx",
            engines=engines,
            backend="onnxruntime",
        ),
        license=license_id,
        card=card,
        details=details,
    )


def _main(folder: Folder) -> str:
    found = [f.name for f in folder.having(".onnx")]
    for name in _PREFERRED:
        if name in found:
            return name
    if len(found) > 1:
        raise DropRejected(
            f"None of the {len(found)} ONNX files is model.onnx ({shown(', '.join(found[:5]))}). "
            "Drop one model per folder, or rename the file to serve to model.onnx.",
            reason="ambiguous",
        )
    return found[0]


def check_external(folder: Folder, name: str, graph: Graph) -> list[str]:
    """Return the external data files; raises `DropRejected` if one is missing or too short."""
    prefix = name.rpartition("/")[0]
    found: set[str] = set()
    for span in graph.external:
        location = f"{prefix}/{span.location}" if prefix else span.location
        if location not in folder:
            raise DropRejected(
                f"{shown(location)!r}, the external data of {shown(name)!r}, is missing. "
                "Drop the model with its external data.",
                reason="missing-shard",
            )
        if span.offset + span.length > folder.sizes[location]:
            raise DropRejected(
                f"{shown(location)!r}, the external data of {shown(name)!r}, is truncated. "
                "Copy it again.",
                reason="truncated",
            )
        found.add(location)
    return sorted(found)
