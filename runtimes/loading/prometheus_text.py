"""Reads the text that engines expose under /metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator

SAMPLE = re.compile(r"^([A-Za-z_:][\w:]*)(\{.*\})?\s+(\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """(name, labels, value) of each line that holds a sample; others are skipped."""
    for line in text.splitlines():
        match = SAMPLE.match(line)
        if not match:
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        yield match[1], dict(LABEL.findall(match[2] or "")), value


def totals(text: str) -> dict[str, float]:
    """Name → sum over all its label sets."""
    found: dict[str, float] = {}
    for name, _labels, value in samples(text):
        found[name] = found.get(name, 0.0) + value
    return found
