"""Diffusers pipelines: ``model_index.json`` and one folder per component."""

from __future__ import annotations

from typing import Any

from modelium.analysis.catalog import EngineCatalog, assess
from modelium.analysis.describe import card_of
from modelium.analysis.readers.code_references import PIPELINE_INDEX, foreign_components
from modelium.analysis.readers.folder import Folder, inside, shown
from modelium.analysis.readers.safetensors_header import read_header
from modelium.errors import DropRejected
from modelium.models import ModelFormat, ModelProfile, Task

_LONG = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def profile_diffusers(folder: Folder, engines: EngineCatalog) -> ModelProfile:
    """Return the profile of a pipeline, sized by component; raises `DropRejected`."""
    index = folder.json(PIPELINE_INDEX)
    pipeline = index.get("_class_name")
    components: dict[str, dict[str, Any]] = {}
    by_dtype: dict[str, int] = {}
    elements = 0
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list) or not inside(name):
            continue
        size = 0
        for file in _weights(folder, name):
            for tensor in folder.parse(file, read_header):
                size += tensor.size
                elements += tensor.elements
                by_dtype[tensor.dtype] = by_dtype.get(tensor.dtype, 0) + tensor.size
        components[shown(name)] = {"class": shown(str(entry[-1])), "bytes": size}
    total = sum(by_dtype.values())
    if not total:
        raise DropRejected(
            f"The components of {PIPELINE_INDEX} have no safetensors files. Save the pipeline with "
            "safe_serialization=True.",
            reason="missing-weights",
        )
    license_id, card = card_of(folder)
    dtype = max(by_dtype, key=lambda k: by_dtype[k])
    architecture = shown(pipeline) if isinstance(pipeline, str) else "DiffusionPipeline"
    return ModelProfile(
        format=ModelFormat.DIFFUSERS,
        architecture=architecture,
        task=Task.TEXT_TO_IMAGE,
        parameter_count=elements,
        weight_bytes=total,
        weight_bytes_by_dtype=by_dtype,
        dtype=_LONG.get(dtype),
        files={"index": PIPELINE_INDEX},
        runtimes=assess(
            format=ModelFormat.DIFFUSERS,
            task=Task.TEXT_TO_IMAGE,
            architecture=architecture,
            engines=engines,
        ),
        needs_remote_code=bool(foreign_components(index)),
        license=license_id,
        card=card,
        details={"components": components},
    )


def _weights(folder: Folder, component: str) -> list[str]:
    names = [
        f.name
        for f in folder.having(".safetensors")
        if f.name.startswith(f"{component}/") and f.name.count("/") == 1
    ]
    # `model.fp16.safetensors` is a copy in another precision, unless it is the only file.
    plain = [name for name in names if name.rsplit("/", 1)[1].count(".") == 1]
    return plain or names
