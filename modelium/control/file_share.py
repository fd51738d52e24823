"""What this node gives other nodes of its model repository: registered versions, chunk by chunk."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from modelium.errors import DropRejected, InputError, UnknownModel
from modelium.intake.manifest import manifest_of, read_chunk
from modelium.models import Version
from modelium.stages.local_files import local_path
from modelium.stages.services import Services

AT_ONCE = 8
"""Chunks that are sent at once, over all nodes that fetch: 64 MiB of memory. More wait."""


class FileShare:
    """Reads files for other nodes. Belongs to one event loop."""

    def __init__(self, *, services: Services) -> None:
        """Give nothing yet."""
        self._services = services
        self._sending = asyncio.Semaphore(AT_ONCE)

    async def manifest(self, model: str, version: int) -> bytes:
        """Return the list of a version's files, as JSON.

        Raises:
            UnknownModel: it is not registered, or was removed, or its files are not here.
        """
        known = await self._version(model, version)
        folder = local_path(self._services, known)
        try:
            found = await asyncio.to_thread(manifest_of, folder, digest=known.digest)
        except DropRejected as exc:
            raise _not_here(model, version) from exc
        return found.model_dump_json().encode()

    @asynccontextmanager
    async def chunk(
        self, model: str, version: int, name: str, index: int
    ) -> AsyncIterator[tuple[bytes, str]]:
        """Yield a chunk of the file ``name`` and its SHA-256 in hex; send it before leaving.

        Raises:
            UnknownModel: as `manifest`.
            InputError: there is no such chunk.
        """
        known = await self._version(model, version)
        folder = local_path(self._services, known)
        async with self._sending:
            yield await asyncio.to_thread(_read, folder, name, index)

    async def _version(self, model: str, version: int) -> Version:
        """Return a version that is registered, and neither removed nor about to be."""
        store = self._services.store
        record = await store.find(model)
        if record is not None and record.removal is None:
            for known in await store.lineage.versions(model):
                if known.version == version:
                    return known
        raise _not_here(model, version)


def _read(folder: Path, name: str, index: int) -> tuple[bytes, str]:
    try:
        data = read_chunk(folder, name, index)
    except OSError as exc:
        raise InputError(f"{name!r} cannot be read: {exc.strerror}") from exc
    return data, hashlib.sha256(data).hexdigest()


def _not_here(model: str, version: int) -> UnknownModel:
    return UnknownModel(f"this node has no files of {model} version {version}")
