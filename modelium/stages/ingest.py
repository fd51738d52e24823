"""Ingest: from a drop to a registered model, or to ``rejected/`` with the reason."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from modelium import analysis
from modelium.errors import DropRejected, InputError, Unavailable
from modelium.intake.names import is_name, model_name, refused_name
from modelium.intake.object_storage import is_url
from modelium.intake.rejects import KeptApart
from modelium.intake.repository import ModelRepository
from modelium.intake.staging import Staged
from modelium.models import Model, ModelProfile, Report, Reservation, Wishes
from modelium.ports import Steps
from modelium.stages.adopt import adopt, settle_reserved
from modelium.stages.downloads import check_source, download, forget
from modelium.stages.drop_outcomes import incomplete, refuse, rejected
from modelium.stages.inline import inline_steps
from modelium.stages.ownership import check_heeded, check_owner, check_team, kept, own_source
from modelium.stages.registration import announce, check, digest_of, enter
from modelium.stages.services import Services
from modelium.stages.standing import Asked, standing, with_wishes
from modelium.stages.verification import is_whole
from modelium.store import Store
from modelium.tasks import on_thread

POLL_S = 0.25
REMOVAL_S = 600.0
"""How long a drop waits for the removal of an earlier model of its name, and how often it looks:
a removal takes as long as the requests in flight."""


async def ingest(
    services: Services,
    *,
    path: str,
    name: str | None = None,
    team: str | None = None,
    priority_ceiling: str | None = None,
    intent: str | None = None,
    missing: str | None = None,
    bound: str | None = None,
    steps: Steps = inline_steps,
) -> Report:
    """Ingest ``path``: stage, check, publish, register; then start its analysis.

    Args:
        services: the ports and the store.
        path: a folder, a file or an archive; moved when it is in the drop zone, else copied. A
            folder in the repository is registered where it is. Or a URL of object storage.
        name: the model's name; default: that of the file or folder.
        team: owning team, where neither the configuration nor the drop itself has one: a drop
            in a team's folder is that team's, and so is a refused or removed one of the team.
        priority_ceiling: highest priority class that a plan may give it.
        intent: id of the operator's request, for the record.
        missing: what a drop in the drop zone lacks; default: that is found out.
        bound: the team of the key that asks. The model is this team's, and neither the drop nor a
            model that it replaces may be another's.
        steps: how steps are run.

    A refused drop is the outcome ``rejected``, not an error; it is kept with the reason. One in
    the drop zone that is ``incomplete`` stays there, and is rejected when it has not changed for
    the configured time. Drops of one name are taken in one after the other.

    Raises:
        InputError: ``name`` is none that a model can have, nothing is at ``path``, ``team`` is
            not known, or ``path`` is the folder of a team, belongs to another one than ``team``,
            is not ``bound``'s to take, or lies in the folder of one that is gone. Or the content
            is registered already, with another ``team`` or ``priority_ceiling``.
    """
    if is_url(path):
        check_source(services, path, bound=bound)
        check_team(services.config, team)
        async with services.fetching.of(path):
            copied = await steps("copy from object storage", download, services, path, name)
            given = {"name": name, "team": team, "priority_ceiling": priority_ceiling}
            report = await ingest(services, path=str(copied), intent=intent, steps=steps, **given)
            await forget(services, copied)
        return report
    source, zone = Path(path), services.repository.zone
    team = bound or team
    check_team(services.config, team)
    if bound is not None:
        source = await own_source(services, source, bound)
    owner = await asyncio.to_thread(services.repository.team_of, source)
    asked = {"team": owner or team, "priority_ceiling": priority_ceiling}
    if source.parent == zone.folder and zone.is_part(source):
        raise InputError(f"{source} is the folder for drops of a team; name a drop in it")
    orphaned = await asyncio.to_thread(zone.orphaned, source)
    if orphaned:
        raise InputError(orphaned)
    if owner is not None and team not in (None, owner):
        raise InputError(f"{source} belongs to team {owner}, and cannot be ingested for {team}")
    if name is not None and not is_name(name):
        raise InputError(f"{refused_name(name)}; nothing was moved")
    if source.parent == services.repository.published:
        return await adopt(services, source, asked, missing=missing, steps=steps)
    own = await asyncio.to_thread(model_name, source)
    async with services.turns.of(name or own):
        return await _ingest(services, source, name, missing, owner or bound, asked, steps)


async def _ingest(
    services: Services,
    source: Path,
    name: str | None,
    missing: str | None,
    owner: str | None,
    asked: Asked,
    steps: Steps,
) -> Report:
    """``owner``: the team that drops it; see `ownership.check_owner`."""
    repository = services.repository
    dropped = repository.zone.holds(source)
    if dropped and missing is None:
        missing = await asyncio.to_thread(_lacking, repository, source)
    if dropped and missing:
        return await incomplete(services, source, missing, name=name)
    try:
        await check_owner(services, name or model_name(source), owner)  # costs no copy
        staged = await steps("stage", _stage, repository, source, name, owner)
    except KeptApart as exc:
        return await rejected(services, name or model_name(source), exc)
    except DropRejected as exc:
        if dropped and exc.reason == "truncated":
            return await incomplete(services, source, str(exc), name=name)
        return await refuse(services, source, exc, name=name)
    services.pending.withdraw(source)
    try:
        return await _take_in(services, staged, source, owner, asked, steps)
    except Exception:
        # What it is that failed, a disk or the store, has nothing to do with the drop.
        await on_thread(repository.give_back, staged)
        raise


async def _take_in(
    services: Services,
    staged: Staged,
    source: Path,
    owner: str | None,
    asked: Asked,
    steps: Steps,
) -> Report:
    """Check, publish and register a staged drop, or reject it."""
    repository, digest = services.repository, ""
    given, asked = asked, await kept(services, staged.name, asked)
    try:
        await check_owner(services, staged.name, owner)  # it may have changed meanwhile
        # The seal is first: one taken after the digest would hide what changed meanwhile.
        seal = await asyncio.to_thread(analysis.seal, staged.folder)
        digest = await steps("digest", digest_of, staged.folder)
        profile = await steps("check", check, services, staged.name, staged.folder, digest)
    except DropRejected as exc:
        await on_thread(repository.reject, staged, exc, digest=digest, asked=dict(asked))
        return await rejected(services, staged.name, exc)
    await _removed(services, staged.name)
    await settle_reserved(services, staged.name, steps=steps)
    known = await services.store.find(staged.name)
    if known and known.digest == digest and await is_whole(services, known):
        await check_heeded(services, known, given)
        await on_thread(repository.discard, staged)
        return Report(
            stage="ingest",
            outcome="unchanged",
            model=staged.name,
            reason="the repository already has this content",
            details={"digest": digest, "version": known.version},
        )
    wishes = await asyncio.to_thread(analysis.owner_note, staged.folder)
    asked = with_wishes(asked, wishes)
    record = await steps("publish", _publish, services, staged, profile, asked, seal, wishes)
    return await announce(services, record, source)


def _lacking(repository: ModelRepository, source: Path) -> str | None:
    """Return what the drop at ``source`` lacks, or why nothing is taken from its folder."""
    return repository.zone.closed(source.parent) or analysis.is_complete(source)


async def _stage(
    repository: ModelRepository, source: Path, name: str | None, owner: str | None
) -> Staged:
    return await on_thread(repository.stage, source, name=name, team=owner)


async def _publish(
    services: Services,
    staged: Staged,
    profile: ModelProfile,
    asked: Asked,
    seal: str,
    wishes: Wishes | None = None,
) -> Model:
    store, repository = services.store.blocking, services.repository

    def publish() -> Model:
        # At one go, which a cancellation does not stop: a published folder is registered.
        held = _held(store, staged, profile.digest)
        if held is None:
            held = _reserve(store, repository, staged, profile.digest, asked)
            try:
                repository.publish(staged, version=held.version)
            except OSError:
                if os.path.lexists(staged.folder):
                    store.reservations.drop(held)
                raise
        # The configuration may have changed since the drop was noticed.
        own, path = standing(services.config, staged.name, asked), Path(held.path)
        return enter(
            store,
            staged.name,
            path=path,
            version=held.version,
            profile=profile,
            own=own,
            asked=asked,
            seal=seal,
            wishes=wishes,
        )

    return await on_thread(publish)


def _held(store: Store, staged: Staged, digest: str) -> Reservation | None:
    """Return the reservation that an earlier try has used: the drop has its place by now."""
    if os.path.lexists(staged.folder):
        return None
    for held in store.reservations.all(staged.name):
        if held.digest == digest and os.path.lexists(held.path):
            return held
    return None


def _reserve(
    store: Store, repository: ModelRepository, staged: Staged, digest: str, asked: Asked
) -> Reservation:
    """Reserve the number of a drop, so that its folder is known before it has its name."""
    found = store.find(staged.name)
    if found is not None and found.removal is not None:
        raise Unavailable(f"{staged.name} is being removed; the drop returns to the drop zone")
    version = repository.free_version(staged.name, store.lineage.next_version(staged.name))
    reservation = Reservation(
        model=staged.name,
        version=version,
        path=str(repository.path(staged.name, version)),
        digest=digest,
        asked=dict(asked),
    )
    store.reservations.add(reservation)
    return reservation


async def _removed(services: Services, name: str) -> None:
    """Wait until an earlier model of that name is gone, where it is being removed."""
    deadline = services.clock.monotonic() + REMOVAL_S
    while services.clock.monotonic() < deadline:
        known = await services.store.find(name)
        if known is None or known.removal is None:
            return
        await services.clock.sleep(POLL_S)
