"""Completes names of models in the shell, from the running service."""

from __future__ import annotations

from typing import Any

from modelium.cli.options import client
from modelium.errors import ModeliumError


def model_names(incomplete: str) -> list[str]:
    """Return the models whose names begin so; none where no service answers."""
    try:
        rows: list[dict[str, Any]] = client(None).get("/models")
    except ModeliumError:
        return []
    return sorted({row["name"] for row in rows if row["name"].startswith(incomplete)})
