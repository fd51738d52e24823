"""Values out of a foreign configuration: sane, or not there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MAX_DIMENSION = 2**40
"""Larger numbers are nonsense, and would make the arithmetic meaningless."""


def number(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of ``names`` that holds a sane non-negative integer."""
    for name in names:
        value = config.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_DIMENSION:
            return value
    return None


def section(config: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The first of ``names`` that holds an object, else an empty one."""
    for name in names:
        value = config.get(name)
        if isinstance(value, dict):
            return value
    return {}
