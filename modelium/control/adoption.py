"""Models that lie in the repository without a drop, and registered ones whose folder is gone."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from modelium.errors import FolderMissing, InputError, ModeliumError, PermanentError
from modelium.intake.fingerprint import Fingerprint, fingerprint
from modelium.intake.names import version_of
from modelium.lifecycle import SETTLED, ModelState
from modelium.models import Model
from modelium.models.base import base_name
from modelium.stages.local_files import known_folders, local_path, note_copies, of_path
from modelium.stages.newcomers import examine
from modelium.stages.services import Services

logger = logging.getLogger(__name__)

MODEL_FILES = (".gguf", ".onnx", ".safetensors")
"""Files beside the models' folders that are reported; others, such as a README, are no models."""

NO_MODELS = frozenset({"lost+found"})


class Adoption:
    """Scans the repository: registers what is new there, and reports what has disappeared.

    The folder is the users': what is refused stays in it, and is tried again when it changes.
    """

    def __init__(self, *, services: Services) -> None:
        """Scan nothing yet."""
        self._services = services
        self._tried: dict[Path, Fingerprint] = {}
        self._failed: dict[Path, str] = {}
        self._missing: frozenset[str] = frozenset()
        self._unlistable = ""

    async def run(self) -> None:
        """Scan at once, then at each rescan interval, until cancelled."""
        while True:
            try:
                await self.poll()
            except ModeliumError as exc:
                logger.warning("the model repository could not be scanned: %s", exc)
            except Exception:
                logger.exception("the model repository could not be scanned")
            await self._services.clock.sleep(self._services.config.ingest.rescan_interval_seconds)

    async def poll(self) -> None:
        """Scan the repository once; register one model after the other, as each is read whole."""
        services, folder = self._services, self._services.repository.published
        try:
            names = await asyncio.to_thread(os.listdir, folder)
        except OSError as exc:
            if str(exc) != self._unlistable:
                logger.warning("the model repository cannot be listed: %s", exc)
            self._unlistable = str(exc)
            return
        self._unlistable = ""
        known = await known_folders(services)
        entries = [folder / name for name in names if _may_be_model(folder / name)]
        await self._find_missing()
        reserved = await self._reserved()
        for path in sorted(entries, key=_newest_first):
            if path not in known:
                await self._adopt(path, reserved=path in reserved)
        for drop in services.pending.all():
            path = Path(drop.path)
            if path.parent == folder and path not in entries:
                services.pending.withdraw(path)

    async def _reserved(self) -> frozenset[Path]:
        """Return the paths of drops that were published, and not registered; forget others.

        Where nodes share the store, others may be another node's: they cost a number each.
        """
        services, found = self._services, set()
        for held in await services.store.reservations.all():
            if not services.turns.is_free(held.model):
                continue  # it is being taken in
            path = of_path(services, held.path)
            if await asyncio.to_thread(os.path.lexists, path):
                found.add(path)
                continue
            if services.node:
                continue
            async with services.turns.of(held.model):
                if not await asyncio.to_thread(os.path.lexists, held.path):
                    await services.store.reservations.drop(held)
        return frozenset(found)

    async def _adopt(self, path: Path, *, reserved: bool) -> None:
        """Register ``path`` once it is quiet, unless it was tried as it is.

        ``reserved``: it is a drop that a crash kept from being registered, and whole.
        """
        services = self._services
        if not services.turns.is_free(path.name.partition("@")[0]):
            return  # a drop of that name is being taken in, maybe this one
        found = await asyncio.to_thread(fingerprint, path)
        if found is None or self._tried.get(path) == found:
            return
        quiet_s = services.clock.system_time() - found.changed_at
        if not reserved and quiet_s < services.config.ingest.quiet_period_seconds:
            return
        try:
            await services.launcher.ingest(path=str(path))
        except (PermanentError, InputError) as exc:
            logger.warning("%s could not be registered: %s", path, exc)
        except Exception as exc:  # a disk's or the store's, too: the next folder may do better
            if str(exc) != self._failed.get(path):
                logger.warning("%s could not be registered, and will be tried again: %s", path, exc)
            self._failed[path] = str(exc)
            return
        self._failed.pop(path, None)
        self._tried[path] = found

    async def _find_missing(self) -> None:
        """Mark models whose folder is gone as failed, and analyze those whose folder is back."""
        _revision, models, _bookings = await self._services.store.view()
        models = await self._own(models)
        gone = await asyncio.to_thread(_gone, self._services, models)
        for model in models:
            failed = model.state is ModelState.FAILED and model.reason.startswith(
                FolderMissing.BEGINS
            )
            if model.name in gone:
                await self._report(model, failed=failed)
            elif failed:
                examine(self._services, model.name)
        self._missing = gone

    async def _own(self, models: tuple[Model, ...]) -> tuple[Model, ...]:
        """Return those of ``models`` whose folder should be here, or nowhere else.

        A folder that has gone from here is missing where no other node has it.
        """
        services = self._services
        if not services.node:
            return models
        await note_copies(services)
        copies = await services.store.nodes.copies()
        others = {version for version, nodes in copies.items() if nodes - {services.node}}
        here = {version for version, nodes in copies.items() if services.node in nodes}
        return tuple(
            model
            for model in models
            if (base_name(model.name), model.version) in here
            or (services.store.plans and (base_name(model.name), model.version) not in others)
        )

    async def _report(self, model: Model, *, failed: bool) -> None:
        store = self._services.store
        reason = str(FolderMissing(model.path))
        if model.state in SETTLED - {ModelState.FAILED}:
            await store.states.mark_unservable(model.name, reason=reason)
        elif failed or model.name in self._missing:
            return  # reported; a loaded one goes on serving
        await store.events.append("model.missing", model=model.name, path=model.path)


def _may_be_model(path: Path) -> bool:
    if path.name.startswith(".") or path.name in NO_MODELS:
        return False
    return path.suffix in MODEL_FILES or not path.is_file()


def _newest_first(path: Path) -> tuple[str, int]:
    name, version = version_of(path) or (path.name, 1)
    return name, -version


def _gone(services: Services, models: tuple[Model, ...]) -> frozenset[str]:
    # No error, such as a stale mount's, is raised by this one: such a folder is missing, too.
    return frozenset(m.name for m in models if not os.path.exists(local_path(services, m)))
