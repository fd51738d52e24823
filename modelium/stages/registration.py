"""What registering a model takes, wherever its files come from."""

from __future__ import annotations

import asyncio
from pathlib import Path

from modelium import analysis
from modelium.config import ModelEntry
from modelium.errors import DropRejected
from modelium.models import Model, ModelProfile, Report, Wishes
from modelium.stages.engine_catalog import engines
from modelium.stages.local_files import note_copies
from modelium.stages.newcomers import examine
from modelium.stages.services import Services
from modelium.stages.standing import Asked, Standing
from modelium.store import Store


async def digest_of(folder: Path) -> str:
    """Return the digest of a model's files; raises `DropRejected`."""
    return await asyncio.to_thread(analysis.digest, folder)


async def check(services: Services, name: str, folder: Path, digest: str) -> ModelProfile:
    """Return the profile of ``folder``; raise `DropRejected` for what is unsafe or incomplete."""
    entry = services.config.models.get(name, ModelEntry())
    approvals = entry.approvals | await services.store.rules.approvals(digest)
    if services.policy.allow_remote_code:
        approvals |= {"remote-code"}
    if services.policy.allow_pickle:
        approvals |= {"pickle"}
    known = await asyncio.to_thread(engines, services.config)
    examined = await asyncio.to_thread(analysis.examine, folder, approvals=approvals, engines=known)
    if examined.profile is None:
        raise DropRejected(f"{name} is incomplete: {examined.missing}", reason="incomplete")
    if approvals:
        await services.store.rules.approve(name, digest=digest, what=approvals)
    return examined.profile.model_copy(update={"digest": digest})


def enter(
    store: Store,
    name: str,
    *,
    path: Path,
    version: int,
    profile: ModelProfile,
    own: Standing,
    asked: Asked,
    seal: str,
    wishes: Wishes | None,
) -> Model:
    """Register the checked files at ``path`` as a version of ``name``. Blocks."""
    return store.register(
        name,
        path=path,
        digest=profile.digest,
        team=own.team,
        priority=own.priority,
        priority_ceiling=own.ceiling,
        pinned=own.pinned,
        asked=asked,
        profile=profile,
        version=version,
        seal=seal,
        wishes=wishes,
    )


async def announce(services: Services, record: Model, source: Path) -> Report:
    """Make a registered model known, and start its analysis."""
    await note_copies(services)
    services.switchboard.know(await services.store.versions())
    await services.store.events.append(
        "model.registered", model=record.name, version=record.version
    )
    examine(services, record.name)
    return Report(
        stage="ingest",
        outcome="registered",
        model=record.name,
        reason=f"version {record.version} from {source.name}",
        details={"digest": record.digest, "version": record.version, "path": record.path},
    )
