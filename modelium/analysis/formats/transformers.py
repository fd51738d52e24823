"""Transformers models: ``config.json`` with or without safetensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelium.analysis.architecture import kv_layout
from modelium.analysis.architecture.hf_config import Text, read_text
from modelium.analysis.architecture.numbers import number, section
from modelium.analysis.architecture.quantization import Quantization, read_quantization
from modelium.analysis.architecture.towers import read_vision
from modelium.analysis.architecture.weights import DTYPE_BYTES, Weights, count, rope_elements
from modelium.analysis.catalog import EngineCatalog, assess
from modelium.analysis.describe import card_of, refined, task_of, untrusted
from modelium.analysis.readers.code_references import names_code
from modelium.analysis.readers.folder import Folder, shown
from modelium.analysis.readers.safetensors_header import read_header
from modelium.analysis.readers.shard_index import read_index
from modelium.errors import DropRejected
from modelium.models import ModelFormat, ModelProfile, Task

GENERATIVE = frozenset(
    {Task.TEXT_GENERATION, Task.TEXT2TEXT, Task.IMAGE_TEXT_TO_TEXT, Task.SPEECH_RECOGNITION}
)
_LONG = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
_FLOATS = frozenset(_LONG)
_LAYER = re.compile(r"(?:^|\.)layers\.(\d{1,5})\.")
MAX_TENSORS = 1_000_000


@dataclass(kw_only=True)
class Stored:
    """Totals over the tensors in the safetensors files that an engine loads."""

    bytes: int = 0
    elements: int = 0
    by_dtype: dict[str, int] | None = None
    tensors: int = 0
    skipped: int = 0
    """Bytes that engines do not load: draft layers, output layers tied to the embedding."""


def profile_transformers(folder: Folder, engines: EngineCatalog, config_name: str) -> ModelProfile:
    """Return the profile of a folder with a ``config.json``; raises `DropRejected`."""
    config = folder.json(config_name)
    architecture = _architecture(config)
    by_class = task_of(config, architecture)
    task = refined(by_class, config, architecture, folder)
    text = read_text(config)
    hf_quant = folder.json("hf_quant_config.json") if "hf_quant_config.json" in folder else None
    quantization = read_quantization(config, hf_quant)
    dtype = _dtype(config, text)
    stored = read_weights(folder, text)
    if stored is None and not (text.layers and text.hidden):
        raise DropRejected(
            f"{shown(config_name)!r} has no sizes (num_hidden_layers, hidden_size) and there are "
            "no safetensors files to measure. Supported: transformers folders, ONNX, GGUF, "
            "Triton entries, TorchScript, TensorRT plans, OpenVINO, diffusers, PEFT adapters.",
            reason="unknown-format",
        )
    counted = count(text, config, quantization, dtype=dtype, head=by_class in GENERATIVE)
    if stored is not None:
        dtype = _stored_dtype(stored, dtype)
    layout = kv_layout.layout_of(text) if by_class in GENERATIVE and text.layers else None
    license_id, card = card_of(folder)
    tokens = kv_layout.per_token(layout) * DTYPE_BYTES.get(dtype, 2) if layout else None
    return ModelProfile(
        format=ModelFormat.TRANSFORMERS,
        architecture=architecture,
        task=task,
        parameter_count=_parameters(stored, counted, quantization),
        weight_bytes=stored.bytes if stored else counted.bytes,
        weight_bytes_by_dtype=(stored.by_dtype or {}) if stored else counted.by_dtype,
        exact=stored is not None,
        dtype=dtype,
        quantization=quantization.name if quantization else None,
        context_length=text.positions or None,
        vocabulary_size=text.vocabulary or None,
        layers=text.layers or None,
        hidden_size=text.hidden or None,
        attention_heads=text.heads or None,
        intermediate_size=text.intermediate or None,
        experts=text.experts.count if text.experts else None,
        kv=layout,
        kv_bytes_per_token=tokens,
        tensor_parallel_degrees=degrees(text),
        files=_files(folder, config_name),
        needs_remote_code=names_code(config) or bool(folder.having(".py")),
        runtimes=assess(
            format=ModelFormat.TRANSFORMERS,
            task=task,
            architecture=architecture,
            engines=engines,
            quantization=quantization.name if quantization else None,
        ),
        license=license_id,
        card=card,
        details=_details(config, text, counted, stored, untrusted(folder)),
    )


def _architecture(config: Mapping[str, Any]) -> str:
    found = config.get("architectures")
    if isinstance(found, list) and found and isinstance(found[0], str):
        return shown(found[0])
    family = config.get("model_type")
    if "quant_algo" in section(config, "quantization"):
        raise DropRejected(
            "The file describes a quantization (hf_quant_config.json), not a model. Put it beside "
            "the config.json of its model.",
            reason="unknown-format",
        )
    if not isinstance(family, str) or not family:
        raise DropRejected(
            "config.json has neither `architectures` nor `model_type`, so it is not a transformers "
            "model. Add them, or drop the model in another supported format.",
            reason="unknown-format",
        )
    return shown(family)


def _dtype(config: Mapping[str, Any], text: Text) -> str:
    for part in (text.raw, config):
        for key in ("dtype", "torch_dtype"):
            value = part.get(key)
            if isinstance(value, str) and value.removeprefix("torch.") in DTYPE_BYTES:
                return value.removeprefix("torch.")
    # A checkpoint without a dtype is float32, unless it is quantized (transformers' default).
    return "bfloat16" if section(config, "quantization_config") else "float32"


def _stored_dtype(stored: Stored, declared: str) -> str:
    floats = {k: v for k, v in (stored.by_dtype or {}).items() if k in _FLOATS}
    if not floats or sum(floats.values()) * 2 < stored.bytes:
        return declared
    return _LONG[max(floats, key=lambda k: floats[k])]


def _files(folder: Folder, config_name: str) -> dict[str, str]:
    found = {"config": config_name}
    for role, name in (
        ("index", "model.safetensors.index.json"),
        ("tokenizer", "tokenizer.json"),
        ("generation", "generation_config.json"),
        ("chat_template", "chat_template.jinja"),
    ):
        if name in folder:
            found[role] = name
    weights = [f.name for f in folder.having(".safetensors") if "/" not in f.name]
    if len(weights) == 1:
        found["model"] = weights[0]
    return found


def read_weights(folder: Folder, text: Text) -> Stored | None:
    """Return exact totals from the headers of the safetensors files; ``None``: there are none."""
    names = _weight_files(folder)
    if not names:
        return None
    found = Stored(by_dtype={})
    seen: set[str] = set()
    for name in names:
        for tensor in folder.parse(name, read_header):
            if tensor.name in seen:
                raise DropRejected(
                    f"The tensor {shown(tensor.name)!r} is in two files. Remove one of them.",
                    reason="duplicate-tensor",
                )
            seen.add(tensor.name)
            if len(seen) > MAX_TENSORS:
                raise DropRejected(
                    f"The files have more than {MAX_TENSORS} tensors. Drop one model per folder.",
                    reason="absurd-counts",
                )
            found.tensors += 1
            if _unloaded(tensor.name, text):
                found.skipped += tensor.size
                continue
            found.bytes += tensor.size
            found.elements += tensor.elements
            by_dtype = found.by_dtype
            if by_dtype is not None:
                by_dtype[tensor.dtype] = by_dtype.get(tensor.dtype, 0) + tensor.size
    return found


def _weight_files(folder: Folder) -> list[str]:
    index = "model.safetensors.index.json"
    if index in folder:
        shards = sorted(folder.parse(index, read_index))
        for shard in shards:
            if shard not in folder:
                raise DropRejected(
                    f"{shown(shard)!r} of {index} is missing. Copy the folder again.",
                    reason="missing-shard",
                )
        return [s for s in shards if s.endswith(".safetensors")]
    names = [f.name for f in folder.having(".safetensors") if "/" not in f.name]
    if "model.safetensors" in names:
        return ["model.safetensors"]
    # "consolidated" files contain the same weights under other names.
    plain = [name for name in names if not name.startswith("consolidated")]
    return plain or names


def _unloaded(name: str, text: Text) -> bool:
    if text.tied and name.endswith("lm_head.weight"):
        return True
    if name.startswith(("mtp.", "model.mtp.")) or "rotary_emb.inv_freq" in name:
        return True
    drafts = number(text.raw, "num_nextn_predict_layers")
    if drafts and (found := _LAYER.search(name)):
        return int(found[1]) >= text.layers
    return False


def _parameters(stored: Stored | None, counted: Weights, quantization: Quantization | None) -> int:
    # Elements of packed weights are not parameters: some hold several weights, some are scales.
    return stored.elements if stored and quantization is None else counted.parameters


def degrees(text: Text) -> tuple[int, ...]:
    """Return the tensor-parallel degrees that fit heads, KV heads (also replicated) and widths."""
    if not text.heads:
        return (1,)
    found = [1]
    for degree in (2, 4, 8, 16, 32):
        repeated = text.kv_heads and (
            text.kv_heads % degree == 0 or degree % text.kv_heads == 0 or text.latent is not None
        )
        if text.heads % degree == 0 and repeated:
            found.append(degree)
    return tuple(found)


def _details(
    config: Mapping[str, Any],
    text: Text,
    counted: Weights,
    stored: Stored | None,
    texts: dict[str, str],
) -> dict[str, Any]:
    vision = read_vision(config)
    memory: dict[str, Any] = {
        "replicated": counted.replicated,
        "key_value": counted.key_value,
        "plain_linear": counted.plain_linear,
        "plain_linear_rows": counted.plain_linear_rows,
        "absorbed": counted.absorbed,
        "rope": rope_elements(text),
        "layers": len([k for k in text.kinds if k != "none"]) or text.layers,
        "kv_heads": text.kv_heads,
    }
    if text.experts:
        memory["top_k"] = text.experts.active
        memory["expert_intermediate"] = text.experts.intermediate
    if vision:
        memory["pixels_per_token"] = 3 * vision.frames * (vision.patch * vision.merge) ** 2
    found: dict[str, Any] = {"memory": memory}
    if stored and stored.skipped:
        found["bytes_not_loaded"] = stored.skipped
    if texts:
        found["untrusted"] = texts
    return found
