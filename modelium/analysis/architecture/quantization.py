"""Quantization schemes: which matrices are converted, and the bits of each afterwards.

Sources: the documentation of the formats (GPTQ arXiv:2210.17323, AWQ arXiv:2306.00978, OCP MX
specification 1.0 for MXFP4, NVIDIA's NVFP4, bitsandbytes NF4 arXiv:2305.14314, compressed-tensors
and modelopt configuration files).
"""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from modelium.analysis.architecture.hf_config import text_section
from modelium.analysis.architecture.matrices import Module
from modelium.analysis.architecture.numbers import number, section

MAX_PATTERNS = 20_000
MAX_PATTERN = 200
MAX_GLOBS = 64
MAX_OPTIONS = 32
_WILD = frozenset("*?[")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """Bits of one converted weight, including its share of scales and zero points."""

    name: str
    bits: int
    group: int = 0
    """Number of weights that share a scale; 0: one scale per output channel."""
    scale_bits: int = 16
    zero_bits: int = 0
    """Bits of the zero point that the engine stores per group."""
    block: int = 1
    """Number of output channels that share a scale."""
    padded: int = 1
    """The engine's kernels pad the hidden size of an expert to a multiple of this."""

    def size(self, module: Module) -> int:
        """Return the bytes of ``module``'s weights, with scales and without biases."""
        rows, columns = module.rows, module.columns
        if module.expert:
            rows, columns = (
                (-(-rows // self.padded) * self.padded, columns)
                if module.name.endswith("down_proj")
                else (rows, -(-columns // self.padded) * self.padded)
            )
        groups = -(-columns // self.group) if self.group else 1
        bits = columns * self.bits + groups * (self.scale_bits + self.zero_bits) // self.block
        return rows * module.count * bits // 8


FP8 = Scheme(name="fp8", bits=8, scale_bits=32)
FP8_BLOCK = Scheme(name="fp8", bits=8, group=128, block=128, scale_bits=32)
INT8 = Scheme(name="int8", bits=8, scale_bits=32)
NVFP4 = Scheme(name="nvfp4", bits=4, group=16, scale_bits=8)
MXFP4 = Scheme(name="mxfp4", bits=4, group=32, scale_bits=8)
# vLLM's MXFP4 expert kernels need a hidden size that is a multiple of 256.
MXFP4_EXPERTS = Scheme(name="mxfp4", bits=4, group=32, scale_bits=8, padded=256)
NF4 = Scheme(name="bitsandbytes", bits=4, group=64, scale_bits=32)

AWQ = Scheme(name="awq", bits=4, group=128)
MXFP8 = Scheme(name="mxfp8", bits=8, group=32, scale_bits=8)

_ALGORITHMS = {
    "FP8": FP8,
    "FP8_PB_WO": FP8_BLOCK,
    "FP8_PER_CHANNEL_PER_TOKEN": FP8,
    "NVFP4": NVFP4,
    "NVFP4_AWQ": NVFP4,
    "W4A16_NVFP4": NVFP4,
    "MXFP4": MXFP4,
    "MXFP8": MXFP8,
    "W4A16_AWQ": AWQ,
    "W4A8_AWQ": AWQ,
    "INT4_AWQ": AWQ,
    "W8A16": INT8,
    "W8A8_SQ_PER_CHANNEL": INT8,
    "INT8_SQ": INT8,
}
"""modelopt's ``quant_algo``."""


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """The quantization that a configuration describes."""

    name: str
    default: Scheme | None
    """Scheme of linear layers that are not excluded; ``None``: only listed layers are converted."""
    experts: Scheme | None = None
    """Scheme of expert matrices, if it differs."""
    listed: tuple[tuple[str, Scheme], ...] = ()
    excluded: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    globs: tuple[str, ...] = ()
    only_experts: bool = False
    named: dict[str, Scheme] = field(default_factory=dict)

    def scheme(self, module: Module) -> Scheme | None:
        """Return the scheme of ``module``; ``None``: it is not quantized."""
        if not module.linear or module.name == "lm_head":
            return None
        name = normal(module.name)
        parents = list(_parents(name))
        for parent in parents:
            if parent in self.named:
                return self.named[parent]
        if (
            any(parent in self.excluded for parent in parents)
            or name.startswith(self.prefixes)
            or any(_glob(pattern).match(name) for pattern in self.globs)
        ):
            return None
        if module.expert:
            return self.experts or self.default
        return None if self.only_experts else self.default


def _parents(name: str) -> Iterable[str]:
    yield name
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


@lru_cache(maxsize=4096)
def _glob(pattern: str) -> re.Pattern[str]:
    # translate() makes every * an atomic group, so that no pattern backtracks without bound.
    return re.compile(fnmatch.translate(f"{pattern}*"))


_RENAMED = (
    ("block_sparse_moe", "mlp"), ("feed_forward", "mlp"), (".ffn", ".mlp"),
    (".mixer.q_", ".self_attn.q_"),
    (".mixer.k_", ".self_attn.k_"), (".mixer.v_", ".self_attn.v_"), (".mixer.o_", ".self_attn.o_"),
    (".mixer.in_", ".linear_attn.in_"), (".mixer.out_", ".linear_attn.out_"),
    (".mixer.experts", ".mlp.experts"), (".mixer.shared_experts", ".mlp.shared_experts"),
    (".mixer.up_", ".mlp.up_"), (".mixer.down_", ".mlp.down_"),
    ("vision_tower", "visual"), ("vision_model", "visual"), ("mm_projector", "visual.merger"),
    ("multi_modal_projector", "visual.merger"), ("embed_vision", "visual.merger"),
)  # fmt: skip


def normal(name: str) -> str:
    """Return ``name`` with the module names that families use mapped to common ones."""
    for old, new in _RENAMED:
        name = name.replace(old, new)
    name = re.sub(r"(?<![\w])attn\b", "self_attn", name)
    name = re.sub(r"\bshared_expert\b", "shared_experts", name)
    name = re.sub(r"^(?:(?:model|language_model|backbone|text_model|transformer)\.)+", "", name)
    return re.sub(r"\.experts\.\d+", ".experts", name)


def _sorted_patterns(patterns: Iterable[object]) -> dict[str, Any]:
    """Group exclusion patterns by how they are matched."""
    exact: set[str] = set()
    prefixes: set[str] = set()
    globs: list[str] = []
    for pattern in itertools.islice(patterns, MAX_PATTERNS):
        if not isinstance(pattern, str) or not 0 < len(pattern) <= MAX_PATTERN:
            continue
        for simple in _simplified(pattern):
            name = normal(simple)
            if not _WILD & set(name):
                exact.add(name)
            elif name.endswith("*") and not _WILD & set(name[:-1]):
                prefixes.add(name[:-1])
            elif len(globs) < MAX_GLOBS:
                globs.append(name)
    return {"excluded": frozenset(exact), "prefixes": tuple(prefixes), "globs": tuple(globs)}


def _simplified(pattern: str) -> list[str]:
    """Convert a regular expression to shell patterns. It is untrusted, so it is never compiled."""
    if not pattern.startswith("re:"):
        return [pattern]
    pattern = pattern[3:].strip("^$").replace("\\.", ".")
    before, _, rest = pattern.partition("(")
    inner, _, after = rest.partition(")")
    found = [before + option + after for option in inner.split("|")[:MAX_OPTIONS]]
    found = [item.replace(".*", "*").replace("[0-9]+", "*").replace("\\d+", "*") for item in found]
    return [re.sub(r"[\\()\[\]|+?^$]", "", item) for item in found]


def _weights(group: Mapping[str, Any]) -> Scheme | None:
    weights = section(group, "weights")
    bits = number(weights, "num_bits")
    if not bits or bits > 16:
        return None
    size = number(weights, "group_size") or 0
    block = weights.get("block_structure")
    if isinstance(block, list) and len(block) == 2:
        return Scheme(name="fp8", bits=bits, group=128, block=128, scale_bits=32)
    if weights.get("type") == "float" and bits == 4:
        return NVFP4 if size == 16 else MXFP4
    # Asymmetric integers have a zero point per group, packed like the weights.
    zero = bits if weights.get("symmetric") is False else 0
    scale = 16 if size else 32
    return Scheme(name=f"w{bits}", bits=bits, group=size, scale_bits=scale, zero_bits=zero)


def read_quantization(
    config: dict[str, Any], hf_quant: dict[str, Any] | None = None
) -> Quantization | None:
    """Return the quantization of a transformers folder.

    ``hf_quant``: the content of its ``hf_quant_config.json``.
    """
    found = section(config, "quantization_config") or section(
        text_section(config), "quantization_config", "compression_config"
    )
    found = found or section(config, "compression_config")
    if hf_quant and not found.get("quant_method"):
        found = {**section(hf_quant, "quantization"), "quant_method": "modelopt"}
    if not found:
        return None
    method = str(found.get("quant_method") or ("modelopt" if "quant_algo" in found else "")).lower()
    ignored: list[object] = []
    for key in (
        "ignore",
        "modules_to_not_convert",
        "exclude_modules",
        "llm_int8_skip_modules",
        "ignored_layers",
    ):
        value = found.get(key)
        if isinstance(value, list):
            ignored += value
    patterns = _sorted_patterns(ignored)
    family = str(text_section(config).get("model_type"))
    return _by_method(method, found, patterns, family)


def _by_method(
    method: str, found: dict[str, Any], patterns: dict[str, Any], family: str
) -> Quantization:
    listed = found.get("quantized_layers")
    if isinstance(listed, dict) and listed:
        named = {
            normal(name): _ALGORITHMS[str(entry.get("quant_algo"))]
            for name, entry in itertools.islice(listed.items(), MAX_PATTERNS)
            if isinstance(entry, dict) and str(entry.get("quant_algo")) in _ALGORITHMS
        }
        base = FP8_BLOCK if method == "fp8" else None
        return Quantization(name="mixed", default=base, named=named)
    if method == "modelopt":
        scheme = _ALGORITHMS.get(str(found.get("quant_algo")).upper())
        return Quantization(name=scheme.name if scheme else "modelopt", default=scheme, **patterns)
    if method == "compressed-tensors":
        groups = [g for g in section(found, "config_groups").values() if isinstance(g, dict)]
        schemes = [s for s in map(_weights, groups) if s is not None]
        return Quantization(
            name=schemes[0].name if schemes and schemes[0] in (NVFP4, MXFP4) else method,
            default=schemes[0] if schemes else None,
            **patterns,
        )
    if method == "mxfp4":
        return Quantization(name=method, default=MXFP4_EXPERTS, only_experts=True, **patterns)
    if method == "fp8":
        block = found.get("weight_block_size")
        experts = MXFP4 if family == "deepseek_v4" else None
        return Quantization(
            name=method, default=FP8_BLOCK if isinstance(block, list) else FP8, experts=experts,
            **patterns,
        )  # fmt: skip
    return Quantization(name=method or "unknown", default=_integer(method, found), **patterns)


def _integer(method: str, found: dict[str, Any]) -> Scheme | None:
    if method == "bitsandbytes":
        if found.get("load_in_8bit") or found.get("_load_in_8bit"):
            return Scheme(name=method, bits=8, scale_bits=32)
        double = found.get("bnb_4bit_use_double_quant")
        return Scheme(name=method, bits=4, group=64, scale_bits=8) if double else NF4
    bits = number(found, "bits", "w_bit", "nbits", "num_bits")
    if not bits or bits > 16:
        return FP8 if "fp8" in method else None
    group = number(found, "group_size", "q_group_size") or 0
    # GPTQ files contain packed zero points even if they are unused, and engines load them.
    zero = 0 if found.get("zero_point") is False else bits
    return Scheme(name=method, bits=bits, group=group, zero_bits=zero)


def online(name: str | None) -> Scheme | None:
    """Return the scheme that an engine applies while it loads an unquantized model."""
    return {"fp8": FP8, "int8": INT8, "bitsandbytes": NF4, "mxfp4": MXFP4}.get(str(name).lower())
