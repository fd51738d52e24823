"""Where the files of models are on this node, and which node has which."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

from modelium.models import Model, Node, Version
from modelium.models.base import base_name
from modelium.stages.services import Services


def local_path(services: Services, record: Model | Version) -> Path:
    """Return where the files of a version are on this node, or would be.

    The store has the path of the node that registered them. Another one has them under the same
    name in a repository of its own, which may be anywhere.
    """
    return of_path(services, record.path)


def of_path(services: Services, path: str) -> Path:
    """Return `local_path` for the path that the store has."""
    return services.repository.published / Path(path).name if services.node else Path(path)


async def known_folders(services: Services) -> dict[Path, tuple[str, int]]:
    """Return what is registered: `local_path` → name and version, of removed ones in place, too."""
    known = await services.store.lineage.paths()
    return {of_path(services, path): version for path, version in known.items()}


def keeps_house(services: Services) -> bool:
    """Whether this node watches and tidies the folders that it reads models from.

    Of nodes with one mount it is the one that plans.
    """
    return not services.config.shares_files() or services.store.plans


async def note_copies(services: Services) -> None:
    """Note in the store which versions this node has the files of."""
    if not services.node:
        return
    versions = await services.store.lineage.versions()
    here = await asyncio.to_thread(_here, services, versions)
    await services.store.nodes.note_copies(services.node, here)


def _here(services: Services, versions: Iterable[Version]) -> list[tuple[str, int]]:
    return [(v.model, v.version) for v in versions if os.path.lexists(local_path(services, v))]


async def sources_of(services: Services, record: Model) -> list[Node]:
    """Return the nodes that have the files of ``record``, and answer; this one is left out."""
    copies = await services.store.nodes.copies()
    have = copies.get((base_name(record.name), record.version), frozenset())
    nodes = await services.store.nodes.all()
    return [n for n in nodes if n.name in have and n.name != services.node and not n.silent]
