"""PEFT adapters: ``adapter_config.json`` and weights that extend a base model."""

from __future__ import annotations

from modelium.analysis.architecture.numbers import number
from modelium.analysis.catalog import EngineCatalog, assess
from modelium.analysis.describe import card_of
from modelium.analysis.readers.folder import Folder, shown
from modelium.analysis.readers.safetensors_header import read_header
from modelium.errors import DropRejected
from modelium.models import ModelFormat, ModelProfile, Task

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_LONG = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def profile_peft(folder: Folder, engines: EngineCatalog) -> ModelProfile:
    """Return the profile of an adapter, with its base model; raises `DropRejected`."""
    config = folder.json(CONFIG)
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise DropRejected(
            f"{CONFIG} has no base_model_name_or_path. Set it to the adapter's base model.",
            reason="missing-base",
        )
    if WEIGHTS not in folder:
        raise DropRejected(
            f"{CONFIG} has no {WEIGHTS} beside it. Save the adapter with safe_serialization=True.",
            reason="missing-weights",
        )
    tensors = folder.parse(WEIGHTS, read_header)
    by_dtype: dict[str, int] = {}
    for tensor in tensors:
        by_dtype[tensor.dtype] = by_dtype.get(tensor.dtype, 0) + tensor.size
    kind = shown(str(config.get("peft_type") or "LORA"))
    targets = config.get("target_modules")
    license_id, card = card_of(folder)
    return ModelProfile(
        format=ModelFormat.PEFT,
        architecture=kind,
        task=Task.ADAPTER,
        parameter_count=sum(t.elements for t in tensors),
        weight_bytes=sum(by_dtype.values()),
        weight_bytes_by_dtype=by_dtype,
        dtype=_LONG.get(max(by_dtype, key=lambda k: by_dtype[k], default="")),
        files={"config": CONFIG, "model": WEIGHTS},
        runtimes=assess(
            format=ModelFormat.PEFT, task=Task.ADAPTER, architecture=kind, engines=engines
        ),
        base_model=shown(base, limit=256),
        license=license_id,
        card=card,
        details={
            "rank": number(config, "r"),
            "target_modules": [shown(str(t)) for t in targets[:64]]
            if isinstance(targets, list)
            else shown(str(targets)),
        },
    )
