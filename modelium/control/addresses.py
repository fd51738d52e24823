"""The addresses of the running service: a file in its state directory, for the CLI."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from modelium import private

FILE = "endpoints.json"


def write(state: Path, endpoints: Mapping[str, str | None]) -> Path:
    """Write the addresses; return the file."""
    file = state / FILE
    private.write(file, json.dumps(endpoints, indent=2) + "\n")
    return file


def read(state: Path) -> dict[str, str | None]:
    """Return what `write` wrote; empty when no service runs."""
    try:
        found = json.loads((state / FILE).read_text())
    except (OSError, ValueError):
        return {}
    return dict(found)
