"""Bytes of weights in an engine's memory, from the configuration or from exact headers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelium.analysis.architecture.hf_config import Text
from modelium.analysis.architecture.matrices import Module
from modelium.analysis.architecture.modules import text_modules
from modelium.analysis.architecture.numbers import number, ratio, section
from modelium.analysis.architecture.quantization import Quantization
from modelium.analysis.architecture.towers import tower_modules

DTYPE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "half": 2, "float": 4}
SHORT = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "half": "F16", "float": "F32"}


@dataclass(kw_only=True)
class Weights:
    """Totals over all matrices. Bytes at the dtype of the file."""

    parameters: int = 0
    bytes: int = 0
    by_dtype: dict[str, int] = field(default_factory=dict)
    replicated: int = 0
    """Bytes that are replicated on every device of a tensor-parallel group."""
    key_value: int = 0
    """Bytes of the K and V projections; they are replicated over more devices than KV heads."""
    plain_linear: int = 0
    """Bytes of unquantized linear layers, which online quantization would convert."""
    plain_linear_rows: int = 0
    absorbed: int = 0
    """Bytes that latent attention adds when an engine splits kv_b_proj for decoding (bfloat16)."""


def count(
    text: Text,
    config: Mapping[str, Any],
    quantization: Quantization | None,
    *,
    dtype: str,
    head: bool,
) -> Weights:
    """Add up every matrix that the configuration implies."""
    unit = DTYPE_BYTES.get(dtype, 2)
    total = Weights()
    _add(total, text_modules(text, head=head), quantization, unit, SHORT.get(dtype, "BF16"))
    _add(total, tower_modules(config, text), quantization, unit, SHORT.get(dtype, "BF16"))
    if text.latent:
        # vLLM stores W_UK and W_UV in addition to kv_b_proj (v1/attention/backends/mla).
        width = text.latent.nope_dim + text.latent.value_dim
        total.absorbed = text.layers * text.heads * width * text.latent.kv_rank * 2
    return total


def _add(
    total: Weights,
    modules: Iterable[Module],
    quantization: Quantization | None,
    unit: int,
    label: str,
) -> None:
    for module in modules:
        scheme = quantization.scheme(module) if quantization else None
        size = scheme.size(module) if scheme else module.elements * unit
        size += module.biases * unit
        total.parameters += module.elements + module.biases
        total.bytes += size
        name = scheme.name if scheme else label
        total.by_dtype[name] = total.by_dtype.get(name, 0) + size
        if not module.split:
            total.replicated += size
        if module.name.endswith((".k_proj", ".v_proj")):
            total.key_value += size
        if scheme is None and module.linear and module.name != "lm_head":
            total.plain_linear += module.elements * unit
            total.plain_linear_rows += module.rows * module.count


def rope_elements(text: Text) -> int:
    """Return the elements of vLLM's cosine and sine tables, one table per distinct rotary setup.

    The length by scaling kind follows ``vllm/model_executor/layers/rotary_embedding``.
    """
    raw = text.raw
    if not text.heads or text.positions == 0 or not _rotary(text):
        return 0
    nested = section(raw, "rope_parameters")
    per_kind = [value for value in nested.values() if isinstance(value, dict)]
    setups = per_kind or [section(raw, "rope_scaling") or nested]
    if not per_kind and (number(raw, "rope_local_base_freq") or text.family.startswith("gemma3")):
        setups = [*setups, {}]
    dim = text.latent.rope_dim if text.latent else number(raw, "qk_rope_head_dim") or text.head_dim
    total = 0
    for setup in setups:
        share = setup.get("partial_rotary_factor") or raw.get("partial_rotary_factor")
        share = ratio(share or raw.get("rotary_pct"), most=1) or 1
        total += _length(text, setup) * int(dim * share)
    return total


_UNROTATED = frozenset(
    [
        "bert",
        "roberta",
        "xlm-roberta",
        "distilbert",
        "electra",
        "albert",
        "mpnet",
        "t5",
        "mt5",
        "bart",
        "mbart",
        "marian",
        "jamba",
        "mamba",
        "mamba2",
        "gpt2",
        "opt",
        "bloom",
        "mpt",
        "gpt_bigcode",
        "whisper",
        "nemotron_h",
    ]
)


def _rotary(text: Text) -> bool:
    absolute = {"absolute", "relative_key", "relative_key_query"}
    return (
        text.family not in _UNROTATED
        and str(text.raw.get("position_embedding_type")) not in absolute
    )


def _length(text: Text, setup: Mapping[str, Any]) -> int:
    kind = str(setup.get("rope_type") or setup.get("type"))
    scale = ratio(setup.get("factor"), most=4096) or 1
    original = number(setup, "original_max_position_embeddings")
    if kind in {"linear", "dynamic"}:
        return int(text.positions * scale)
    if kind in {"yarn", "deepseek_yarn"}:
        return int((original or text.positions) * scale)
    if kind in {"longrope", "su"} and original:
        return text.positions + original
    return text.positions
