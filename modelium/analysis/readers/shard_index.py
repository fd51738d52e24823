"""Reads shard indexes (``*.index.json``), which list the files of a sharded checkpoint."""

from __future__ import annotations

from pathlib import Path

from modelium.analysis.readers.folder import inside, json_file, shown
from modelium.errors import DropRejected

SUFFIX = ".index.json"
MAX_INDEX_BYTES = 48 * 1024**2
"""The largest published shard indexes (140,000 tensors) have about 16 MiB."""


def read_index(path: Path, what: str) -> frozenset[str]:
    """Return the file names in ``weight_map``, all of which are inside the folder.

    ``what`` names the index in messages. Raises `DropRejected` for an index without a usable
    ``weight_map`` and for names that leave the folder.
    """
    weight_map = json_file(path, what, limit=MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict):
        raise DropRejected(f"{what!r} has no weight_map. Copy the index again.", reason="bad-index")
    shards = set()
    for value in weight_map.values():
        if not isinstance(value, str):
            raise DropRejected(
                f"{what!r} maps a tensor to something that is not a file name. "
                "Copy the index again.",
                reason="bad-index",
            )
        shards.add(value)
    for shard in shards:
        if not inside(shard):
            raise DropRejected(
                f"{what!r} refers to {shown(shard)!r}, outside the folder. "
                "Drop the folder with all of its shards inside it.",
                reason="path-traversal",
            )
    return frozenset(shards)
