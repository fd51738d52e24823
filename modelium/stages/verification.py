"""Whether the files that are about to be loaded are those that were checked."""

from __future__ import annotations

import asyncio
import logging

from modelium import analysis
from modelium.errors import DropRejected, FailureKind, LoadFailed
from modelium.models import Model
from modelium.models.base import base_name
from modelium.stages.local_files import local_path
from modelium.stages.services import Services

logger = logging.getLogger(__name__)


async def verify(services: Services, record: Model) -> None:
    """Make sure that the files of ``record`` are those of its digest.

    They are read where the file system knows of a change since they were read last, or has never
    been asked.

    Raises:
        LoadFailed: they are not.
    """
    if services.config.ingest.verify_at_load:
        await _read_again(services, record)


async def is_whole(services: Services, record: Model) -> bool:
    """Whether the files of ``record`` are there, and still those of its digest."""
    try:
        await _read_again(services, record)
    except (LoadFailed, OSError):
        return False
    return True


async def _read_again(services: Services, record: Model) -> None:
    """Read the files of ``record`` where they may have changed; raise `LoadFailed` if they did."""
    name, folder = base_name(record.name), local_path(services, record)
    known = await _seals(services, name, record.version)
    try:
        seal = await asyncio.to_thread(analysis.seal, folder)
        if seal in known:
            return
        logger.info("%s version %d: its files are read again", name, record.version)
        digest = await asyncio.to_thread(analysis.digest, folder)
        if digest != record.digest:
            # Triton writes bytecode beside Python code while it serves it.
            await asyncio.to_thread(analysis.unlay, folder)
            seal = await asyncio.to_thread(analysis.seal, folder)
            digest = await asyncio.to_thread(analysis.digest, folder)
    except DropRejected as exc:
        raise _changed(record, str(exc)) from exc
    if digest != record.digest:
        raise _changed(record, "a file was changed, added or removed")
    if services.node:
        await asyncio.to_thread(services.seals.note, name, record.version, seal)
    else:
        await services.store.lineage.set_seal(name, record.version, seal)


async def _seals(services: Services, name: str, version: int) -> frozenset[str]:
    """Return the seals that the files of a version may have here.

    Where the nodes have one mount, each reads them itself once: what it is shown may be old.
    """
    found: set[str | None] = set()
    if services.node:
        found.add(await asyncio.to_thread(services.seals.of, name, version))
    if not services.node or not services.config.repository.shared:
        found.add(await services.store.lineage.seal(name, version))
    return frozenset(seal for seal in found if seal)


def _changed(record: Model, what: str) -> LoadFailed:
    return LoadFailed(
        f"the files in {record.path} are not those that were checked when version "
        f"{record.version} was registered ({what}): put them back, or drop the model again",
        kind=FailureKind.BAD_FILES,
    )
