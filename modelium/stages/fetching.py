"""Fetches the files of a version from nodes that have them, before it is loaded here.

What has arrived stays through a kill, and is not fetched again. A chunk is checked by its hash as
it arrives, the whole by the digest that was registered: what is wrong is thrown away and fetched
from another node.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from modelium.errors import FolderMissing, TransientError, Unavailable
from modelium.intake.fetched import FetchedCopies
from modelium.intake.manifest import BadManifest, Chunk, Manifest, read_manifest
from modelium.intake.partial import Partial
from modelium.intake.removal import remove
from modelium.models import GIB, MIB, Model
from modelium.models.base import base_name
from modelium.ports import FileSource, Progress
from modelium.stages.local_files import local_path, note_copies, sources_of
from modelium.stages.services import Services
from modelium.tasks import on_thread

logger = logging.getLogger(__name__)

PHASE = "fetching files"

AT_ONCE = 4
"""Chunks that are fetched at once: enough to keep a link busy, 32 MiB of memory."""

PATIENCE = 4
"""Failures in a row after which a node is not asked again by this fetch."""

PAUSE_S = 2.0
"""For which a node is not asked after a failure: its gateway may be starting, or not know this
node yet."""

FOLDER = ".fetching"
"""In the repository: what has not arrived as a whole yet."""


async def provide(services: Services, record: Model, progress: Progress) -> Path:
    """Return where the files of ``record`` are on this node; fetch them where they are not.

    Raises:
        FolderMissing: no node has them.
        Unavailable: those that do cannot be reached, or they do not fit on the disk.
    """
    path = local_path(services, record)
    copies = FetchedCopies(repository=services.repository.published)
    if await asyncio.to_thread(os.path.exists, path):
        if services.node:
            await asyncio.to_thread(copies.touch, path.name, at=services.clock.time())
        return path
    if not services.node:
        raise FolderMissing(record.path)
    async with services.fetching.of(path.name):
        if not await asyncio.to_thread(os.path.exists, path):
            await _fetch(services, record, path, progress)
    return path


async def _fetch(services: Services, record: Model, path: Path, progress: Progress) -> None:
    nodes = await sources_of(services, record)
    sources = [s for s in map(services.files.of, nodes) if s] if services.files else []
    if not services.config.repository.fetch:
        raise Unavailable(
            f"{services.node} does not have the files of {record.name}, and does not fetch any: "
            "set repository.fetch, or use one mount with repository.shared"
        )
    if not sources:
        copies = await services.store.nodes.copies()
        have = copies.get((base_name(record.name), record.version), frozenset()) - {services.node}
        if not have:
            raise FolderMissing(str(path))
        heard = "other nodes have no address of it: set gateway.advertise there"
        silent = "nobody hears of it: start Modelium there"
        raise Unavailable(
            f"the files of {record.name} version {record.version} are only on "
            f"{' and '.join(sorted(have))}; {heard if nodes else silent}"
        )
    began = services.clock.monotonic()
    await services.store.events.append(
        "model.fetching", model=base_name(record.name), version=record.version,
        node=services.node, sources=[source.node for source in sources],
    )  # fmt: skip
    fetched = await _Fetch(services, record, path, progress).run(sources)
    seconds = services.clock.monotonic() - began
    services.fetched.note(fetched, seconds)
    await note_copies(services)
    if record.deployment is not None:
        services.telemetry.on_load_phase(record.deployment.runtime, PHASE, seconds=seconds)
    await services.store.events.append(
        "model.fetched", model=base_name(record.name), version=record.version,
        node=services.node, bytes=fetched, seconds=round(seconds, 3),
    )  # fmt: skip


@dataclass(slots=True)
class _Asked:
    """A node that has the files, and how it does."""

    source: FileSource
    failed: int = 0
    """How often in a row."""
    not_before: float = 0.0
    """When it is asked again, in seconds of the monotonic clock."""
    why: str = ""

    def fail(self, exc: Exception, now: float) -> None:
        """Count a failure; those of requests that were under way at once are one."""
        if now >= self.not_before:
            self.failed += 1
            self.not_before = now + PAUSE_S
        self.why = str(exc)


@dataclass(slots=True)
class _Fetch:
    """One fetch of one version."""

    services: Services
    record: Model
    path: Path
    progress: Progress
    fetched: int = 0
    """Bytes that came over the network."""
    asked: list[_Asked] = field(default_factory=list)

    async def run(self, sources: list[FileSource]) -> int:
        """Fetch everything from all; where the whole is wrong, from one after the other."""
        try:
            await self._whole(sources)
        except BadManifest as exc:
            logger.warning("%s, fetched from several nodes: %s", self.record.name, exc)
            if len(sources) == 1:
                raise self._failed([f"{sources[0].node}: {exc}"]) from exc
            await self._one_by_one(sources)
        return self.fetched

    async def _one_by_one(self, sources: list[FileSource]) -> None:
        said = []
        for source in sources:
            try:
                return await self._whole([source])
            except (BadManifest, TransientError) as exc:
                said.append(f"{source.node}: {exc}")
        raise self._failed(said)

    async def _whole(self, sources: list[FileSource]) -> None:
        services, name = self.services, self.path.name
        self.asked = [_Asked(source) for source in sources]
        manifest = await self._manifest()
        folder = services.repository.published / FOLDER / name
        partial_ = await on_thread(partial(Partial, folder=folder, manifest=manifest))
        await self._room(manifest.total_bytes - partial_.arrived_bytes)
        await self._chunks(partial_, manifest)
        copies = FetchedCopies(repository=services.repository.published)
        version = (base_name(self.record.name), self.record.version)

        def note(files: Path) -> None:
            at = services.clock.time()
            copies.note(files, name, model=version[0], version=version[1], at=at)

        seal = await on_thread(partial(partial_.finish, self.path, note=note))
        await asyncio.to_thread(services.seals.note, *version, seal)

    async def _manifest(self) -> Manifest:
        version = base_name(self.record.name), self.record.version
        while asked := await self._next(0):
            try:
                body = await asked.source.manifest(*version)
                manifest = read_manifest(body, digest=self.record.digest)
                disk = await asyncio.to_thread(_disk, self.services.repository.published)
                if manifest.total_bytes > disk:  # before anything is made of its chunks
                    raise BadManifest("its list of files is larger than the disk here")
                return manifest
            except BadManifest as exc:
                self._drop(asked, exc)
            except TransientError as exc:
                asked.fail(exc, self.services.clock.monotonic())
        raise self._failed([])

    async def _chunks(self, into: Partial, manifest: Manifest) -> None:
        """Fetch what is missing, several chunks at once, from the nodes in turn."""
        missing, total = into.missing(), max(1, manifest.total_bytes)
        missing.reverse()
        self.progress(PHASE, into.arrived_bytes / total)

        async def fetch() -> None:
            while missing:
                chunk = missing.pop()
                data = await self._chunk(chunk)
                await on_thread(partial(into.write, chunk, data))
                self.fetched += chunk.size
                self.progress(PHASE, into.arrived_bytes / total)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(fetch())
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _chunk(self, chunk: Chunk) -> bytes:
        version, turn = (base_name(self.record.name), self.record.version), chunk.index
        while asked := await self._next(turn):
            turn += 1
            limit = self.services.config.repository.fetch_mib_per_s
            per_s = None if limit is None else limit * MIB
            await self.services.bandwidth.take(chunk.size, per_s=per_s)
            try:
                data = await asked.source.chunk(*version, chunk.name, chunk.index, chunk.size)
            except TransientError as exc:
                asked.fail(exc, self.services.clock.monotonic())
            except BadManifest as exc:
                self._drop(asked, exc)
            else:
                if asked.failed < PATIENCE:  # else it was given up meanwhile
                    asked.failed = 0
                return data
        raise self._failed([])

    async def _next(self, turn: int) -> _Asked | None:
        """Return the node whose turn it is, when one may be asked; ``None``: none is left."""
        clock = self.services.clock
        while left := [asked for asked in self.asked if asked.failed < PATIENCE]:
            ready = [asked for asked in left if asked.not_before <= clock.monotonic()]
            if ready:
                return ready[turn % len(ready)]
            await clock.sleep(min(asked.not_before for asked in left) - clock.monotonic())
        return None

    def _drop(self, asked: _Asked, exc: Exception) -> None:
        """Ask a node no more."""
        asked.failed, asked.why = PATIENCE, str(exc)
        logger.warning(
            "%s is not fetched from %s any more: %s", self.record.name, asked.source.node, exc
        )

    def _failed(self, said: list[str]) -> Unavailable:
        said = said or [f"{asked.source.node}: {asked.why}" for asked in self.asked]
        return Unavailable(
            f"the files of {self.record.name} version {self.record.version} could not be fetched "
            f"({'; '.join(said)}); what has arrived is kept, and the load is tried again"
        )

    async def _room(self, wanted: int) -> None:
        """Have ``wanted`` bytes free on the disk beside `ingest.min_free_gib`.

        Raises:
            Unavailable: they are not, even without the copies that may be deleted.
        """
        reserve = int((self.services.config.ingest.min_free_gib or 0.0) * GIB)
        if not await make_room(self.services, wanted + reserve):
            free = await asyncio.to_thread(_free, self.services.repository.published)
            raise Unavailable(
                f"the files of {self.record.name} take {wanted / GIB:.1f} GiB more on "
                f"{self.services.node}, and {free / GIB:.1f} GiB are free, of which "
                f"ingest.min_free_gib keeps {reserve / GIB:.1f}; make room there"
            )


async def make_room(services: Services, wanted: int) -> bool:
    """Delete fetched copies, the least recently loaded first, until ``wanted`` bytes are free.

    Never one of a model that is loaded or on its way, nor the last copy of a version. Returns
    whether so many are free.
    """
    folder = services.repository.published
    if await asyncio.to_thread(_free, folder) >= wanted:
        return True
    fetched = FetchedCopies(repository=folder)
    copies = await services.store.nodes.copies()
    there = {n.name for n in await services.store.nodes.all() if not n.silent} - {services.node}
    for name, version in await asyncio.to_thread(fetched.oldest_first):
        if not copies.get(version, frozenset()) & there or await _is_used(services, version):
            continue
        await on_thread(partial(fetched.remove, name))
        await note_copies(services)
        await services.store.events.append(
            "copy.removed", model=version[0], version=version[1], node=services.node
        )
        if await asyncio.to_thread(_free, folder) >= wanted:
            return True
    return await asyncio.to_thread(_free, folder) >= wanted


async def drop_removed(services: Services) -> None:
    """Delete fetched copies, whole or not, of versions that are kept no more."""
    if not services.node:
        return
    versions = await services.store.lineage.versions()
    kept = {(version.model, version.version) for version in versions}
    names = {local_path(services, version).name for version in versions}
    await asyncio.to_thread(services.seals.keep, kept)
    await on_thread(partial(_drop_removed, services, kept, names))
    await note_copies(services)


def _drop_removed(services: Services, kept: set[tuple[str, int]], names: set[str]) -> None:
    folder = services.repository.published
    fetched = FetchedCopies(repository=folder)
    for name, version in fetched.oldest_first():
        if version not in kept:
            _quietly(partial(fetched.remove, name), name)
    for left in (folder / FOLDER).glob("*"):
        if left.name not in names:
            _quietly(partial(remove, left), left.name)


def _quietly(delete: Callable[[], object], name: str) -> None:
    try:
        delete()
    except OSError as exc:
        logger.warning("the fetched files of %s cannot be deleted now: %s", name, exc)


async def _is_used(services: Services, version: tuple[str, int]) -> bool:
    """Whether a model of that version is loaded, or is about to be."""
    _revision, models, _bookings = await services.store.view()
    return any(
        base_name(model.name) == version[0]
        and model.deployment is not None
        and version[1] in (model.deployment.version, model.version)
        for model in models
    )


def _disk(folder: Path) -> int:
    return shutil.disk_usage(folder).total


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
