"""``modules.json``: the parts of a sentence-transformers model, each in a folder of its own."""

from __future__ import annotations

import json

from modelium.analysis.readers.folder import Folder, inside, shown
from modelium.errors import DropRejected

MODULES = "modules.json"
MAX_BYTES = 64 * 1024


def refuse_foreign_modules(folder: Folder) -> None:
    """Raise `DropRejected` where a part of the model lies outside of its folder."""
    for entry in folder.files:
        if entry.name.rpartition("/")[2] != MODULES:
            continue
        data = folder.read(entry.name, limit=MAX_BYTES + 1)
        try:
            if len(data) > MAX_BYTES:
                raise ValueError("it is too large")
            found = json.loads(data)
            paths = [part.get("path", "") for part in found]
        except (ValueError, RecursionError, AttributeError, TypeError) as exc:
            raise DropRejected(
                f"{shown(entry.name)} is no list of modules. Copy it again.", reason="bad-json"
            ) from exc
        for path in paths:
            plain = path.rstrip("/") if isinstance(path, str) else None
            if plain is None or (plain and not inside(plain)):
                raise DropRejected(
                    f"{shown(entry.name)} refers to {shown(str(path))!r}, which is outside the "
                    "model's folder. Put the module into the folder.",
                    reason="path-traversal",
                )
