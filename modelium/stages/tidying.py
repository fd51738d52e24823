"""Tidying: old versions and removed files. Every part is safe to interrupt and to repeat."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path

from modelium.errors import InputError
from modelium.intake.fetched import FetchedCopies
from modelium.intake.object_storage import clear_old
from modelium.intake.repository import TRASH
from modelium.models import GIB, Model, Version
from modelium.stages.fetching import drop_removed, make_room
from modelium.stages.local_files import keeps_house, local_path
from modelium.stages.services import Services

logger = logging.getLogger(__name__)

DAY_S = 86400.0
BY_COUNT = "ingest.keep_versions"
BY_SPACE = "ingest.min_free_gib"
"""Who removed a version, where it was no person."""


async def tidy(services: Services) -> None:
    """Retire old versions, move the files of what is removed, and delete what has expired.

    The store says which versions are removed; a folder of one of them that is still in the
    repository is moved, so that an interrupted removal is always continued.
    """
    if keeps_house(services):
        for version in await _surplus(services, keep=services.config.ingest.keep_versions):
            await _retire(services, version, by=BY_COUNT, purge=False)
    await move_removed(services)
    await drop_removed(services)
    await asyncio.to_thread(
        clear_old,
        services.repository.downloads,
        before=services.clock.system_time() - services.config.ingest.incomplete_after_seconds,
    )
    if not keeps_house(services):
        return
    retention = services.config.ingest.trash_retention_days * DAY_S
    await asyncio.to_thread(
        services.repository.trash.expire, before=services.clock.time() - retention
    )
    if services.config.ingest.min_free_gib is not None:
        wanted = int(services.config.ingest.min_free_gib * GIB)
        if not services.node or not await make_room(services, wanted):
            await _make_space(services, wanted)


async def move_removed(services: Services) -> None:
    """Move the folders of removed versions out of the repository."""
    if not keeps_house(services):
        return
    removed = await services.store.lineage.versions(removed=True)
    for version, path in await asyncio.to_thread(_move, services, removed):
        # A folder that somebody puts there later is another model's.
        await services.store.lineage.note_moved(version.model, version.version, path)


def surplus(
    versions: Iterable[Version],
    models: Mapping[str, Model],
    aliases: Mapping[str, str],
    *,
    keep: int,
) -> list[Version]:
    """Return the versions beyond the ``keep`` newest that nothing uses, the oldest first.

    Args:
        versions: all that are kept, by model, the newest first.
        models: by name.
        aliases: of the gateway: name → ``NAME`` or ``NAME:VERSION``.
        keep: versions per model, the current one included.
    """
    found = []
    for name, own in groupby(versions, key=lambda version: version.model):
        model = models.get(name)
        if model is None or model.removal is not None:
            continue
        used = in_use(model, aliases)
        others = [version for version in own if version.version != model.version]
        found += [v for v in others[keep - 1 :] if v.version not in used]
    return sorted(found, key=lambda version: version.registered_at)


def in_use(model: Model, aliases: Mapping[str, str]) -> frozenset[int]:
    """Return the versions of ``model`` that are current, loaded, or named by an alias."""
    used = {model.version}
    if model.deployment is not None:
        used.add(model.deployment.version)
    for target in aliases.values():
        name, _, version = target.partition(":")
        if name == model.name and version:
            used.add(int(version))
    return frozenset(used)


async def _surplus(services: Services, *, keep: int) -> list[Version]:
    versions = await services.store.lineage.versions()
    _revision, models, _bookings = await services.store.view()
    known = {model.name: model for model in models}
    return surplus(versions, known, services.config.gateway.aliases, keep=keep)


async def _retire(services: Services, version: Version, *, by: str, purge: bool) -> None:
    try:
        await services.store.lineage.retire(version.model, [version.version], by=by, purge=purge)
    except InputError:
        return  # it was loaded or removed meanwhile
    await services.store.events.append(
        "version.removed", model=version.model, version=version.version, by=by, purge=purge
    )


def _move(services: Services, removed: Iterable[Version]) -> list[tuple[Version, str]]:
    """Move what can be moved; return those versions, each with its new path."""
    repository, moved = services.repository, []
    copies = FetchedCopies(repository=repository.published)
    for version in removed:
        path = local_path(services, version)
        if path.parent != repository.published:
            continue  # never anything outside of the repository
        if services.node:
            # What another node has, or has moved already, is not this one's to note.
            if _is_moved(version) or copies.is_copy(path.name) or not os.path.lexists(path):
                continue
            version = version.model_copy(update={"path": str(path)})
        try:
            place = repository.trash.put(version)
        except OSError as exc:
            logger.warning(
                "the files of %s version %d stay in the repository for now: %s",
                version.model,
                version.version,
                exc,
            )
        else:
            moved.append((version, str(place or "")))
    return moved


def _is_moved(version: Version) -> bool:
    """Whether the files of a removed version are in a trash, or deleted."""
    return not version.path or Path(version.path).parent.parent.name == TRASH


async def _make_space(services: Services, wanted: int) -> None:
    """Delete trash, then old versions, oldest first, until ``wanted`` bytes are free."""
    trash = services.repository.trash
    for entry in reversed(await asyncio.to_thread(trash.entries)):
        if await _is_free(services, wanted):
            return
        await asyncio.to_thread(trash.delete, entry.name)
    for version in await _surplus(services, keep=1):
        if await _is_free(services, wanted):
            return
        await _retire(services, version, by=BY_SPACE, purge=True)
        await move_removed(services)


async def _is_free(services: Services, wanted: int) -> bool:
    usage = await asyncio.to_thread(shutil.disk_usage, services.repository.published)
    return usage.free >= wanted
