"""Models that were dropped with a note of their owner, read as ingest reads it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from modelium.analysis.readers.owner_note import NOTE, owner_note
from modelium.models import Model


def noted(model: Model, note: str) -> Model:
    """Return ``model`` with the wishes of a ``modelium.toml`` that reads ``note``."""
    with TemporaryDirectory() as folder:
        Path(folder, NOTE).write_text(note)
        return model.model_copy(update={"wishes": owner_note(Path(folder))})
