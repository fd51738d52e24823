"""Matrices as lines of text, so that a whole model can be compared at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from modelium.analysis.architecture.hf_config import Text, read_text
from modelium.analysis.architecture.matrices import Module

SIZES: dict[str, Any] = {
    "hidden_size": 11, "intermediate_size": 13, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 5, "vocab_size": 100, "max_position_embeddings": 17,
}  # fmt: skip
"""All different, so that swapped sizes show."""


def text_of(family: str = "llama", **changes: Any) -> Text:
    """The text model of `SIZES` with ``changes``."""
    return read_text({"model_type": family, **SIZES, **changes})


def lines(modules: Iterable[Module], *, without: str = "") -> list[str]:
    """One line per matrix: name without ``without``, rows × columns, and what is not usual."""
    return [_line(module, without) for module in modules]


def _line(module: Module, without: str) -> str:
    found = f"{module.name.removeprefix(without)} {module.rows}×{module.columns}"
    found += f" times {module.count}" if module.count != 1 else ""
    found += f" bias {module.bias}" if module.bias else ""
    found += "" if module.split else " whole"
    found += "" if module.linear else " table"
    return found + (" expert" if module.expert else "")
