"""Reads values from an untrusted configuration; invalid ones count as absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MAX_DIMENSION = 2**40
"""Larger numbers cannot be sizes of a model and are treated as absent."""


def number(config: Mapping[str, Any], *names: str) -> int | None:
    """Return the first of ``names`` with a non-negative integer of plausible size."""
    for name in names:
        value = config.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_DIMENSION:
            return value
    return None


def ratio(value: object, *, most: float) -> float | None:
    """Return ``value`` if it is a number above zero and up to ``most``."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= most:
        return float(value)
    return None


def section(config: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return the first of ``names`` with an object as its value, else an empty one."""
    for name in names:
        value = config.get(name)
        if isinstance(value, dict):
            return value
    return {}


def integers(value: object) -> frozenset[int]:
    """Return the integers of a list; none if ``value`` is no list."""
    return frozenset(v for v in value if type(v) is int) if isinstance(value, list) else frozenset()
