"""Where the running Modelium answers: a file in its state directory, for the CLI beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

FILE = "endpoints.json"


def write(state: Path, endpoints: Mapping[str, str | None]) -> Path:
    """Say where everything answers; returns the file."""
    file = state / FILE
    file.write_text(json.dumps(endpoints, indent=2) + "\n")
    return file


def read(state: Path) -> dict[str, str | None]:
    """What `write` said; empty when nothing runs here."""
    try:
        found = json.loads((state / FILE).read_text())
    except (OSError, ValueError):
        return {}
    return dict(found)
