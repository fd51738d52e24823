"""Parses the Prometheus text format, which engines serve at /metrics (no I/O here)."""

from __future__ import annotations

import re
from collections.abc import Iterator

SAMPLE = re.compile(r"^([A-Za-z_:][\w:]*)(\{.*\})?\s+(\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
LARGEST = 1e18
"""What is no finite number, or larger than any counter, is no measurement."""


def samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield (name, labels, value) of each sample; skip all others."""
    for line in text.splitlines():
        match = SAMPLE.match(line)
        if not match:
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        if not abs(value) < LARGEST:
            continue
        yield match[1], dict(LABEL.findall(match[2] or "")), value


def totals(text: str) -> dict[str, float]:
    """Return the sum over all label sets, by name."""
    found: dict[str, float] = {}
    for name, _labels, value in samples(text):
        found[name] = found.get(name, 0.0) + value
    return found
