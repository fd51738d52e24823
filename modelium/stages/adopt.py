"""Adopt: register a folder that somebody put into the repository, where it is."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from modelium import analysis
from modelium.errors import DropRejected
from modelium.intake.names import version_of
from modelium.models import Model, ModelProfile, Report, Reservation, Wishes
from modelium.ports import Steps
from modelium.stages.drop_outcomes import note_incomplete, refuse_in_place
from modelium.stages.local_files import known_folders, local_path, of_path
from modelium.stages.ownership import check_heeded, kept
from modelium.stages.registration import announce, check, digest_of, enter
from modelium.stages.services import Services
from modelium.stages.standing import Asked, Standing, standing, with_wishes


async def adopt(
    services: Services,
    source: Path,
    given: Asked | None = None,
    *,
    missing: str | None,
    steps: Steps,
) -> Report:
    """Register the entry ``source`` of the repository; what is refused stays there.

    ``NAME`` is version 1 and ``NAME@2`` version 2 of a model. The highest version becomes the
    current one; a version that the store knows at another path has been moved here. ``given``: as
    with a drop.

    Raises:
        InputError: it is registered, and what is ``given`` differs from what it has.
    """
    async with services.turns.of(_name(source)):
        return await _adopt(services, source, missing, steps, given)


async def settle_reserved(services: Services, name: str, *, steps: Steps) -> None:
    """Register what a crash has left of drops of ``name`` between their folder and its record.

    The caller has the turn of that name, so nobody else is at it.
    """
    for held in await services.store.reservations.all(name):
        path = of_path(services, held.path)
        if await asyncio.to_thread(os.path.lexists, path):
            await _adopt(services, path, None, steps)
        elif not services.node:
            await services.store.reservations.drop(held)


async def _adopt(
    services: Services,
    source: Path,
    missing: str | None,
    steps: Steps,
    given: Asked | None = None,
) -> Report:
    if found := (await known_folders(services)).get(source):
        known = await services.store.find(found[0])
        if known is not None:
            await check_heeded(services, known, given or {})
        return Report(stage="ingest", outcome="unchanged", reason=f"{source.name} is registered")
    if missing or (missing := await asyncio.to_thread(analysis.is_complete, source)):
        return await note_incomplete(services, source, missing, name=_name(source))
    digest, seal = "", ""
    try:
        name, version = _parsed(source)
        seal = await asyncio.to_thread(analysis.seal, source)
        digest = await steps("digest", digest_of, source)
        profile = await steps("check", check, services, name, source, digest)
    except DropRejected as exc:
        return await refuse_in_place(services, source, exc, name=_name(source), digest=digest)
    reserved = await _reservation(services, source)
    wishes = await asyncio.to_thread(analysis.owner_note, source)
    spoken = {key: value for key, value in (given or {}).items() if value}
    came_with = reserved.asked if reserved else spoken
    asked = with_wishes(await kept(services, name, came_with), wishes)
    own = standing(services.config, name, asked)
    record = await steps(
        "register", _register, services, source, version, profile, own, asked, seal, wishes
    )
    services.pending.withdraw(source)
    if reserved is not None:
        await services.store.events.append("drop.recovered", model=name, version=version)
    if local_path(services, record) == source:
        return await announce(services, record, source)
    return Report(
        stage="ingest",
        outcome="registered",
        model=name,
        reason=f"an older version than the current one, {record.version}",
        details={"digest": digest, "version": version, "path": str(source)},
    )


async def _reservation(services: Services, source: Path) -> Reservation | None:
    """Return what is known of ``source`` where a crash kept it from being registered."""
    for held in await services.store.reservations.all(_name(source)):
        if of_path(services, held.path) == source:
            return held
    return None


def _name(source: Path) -> str:
    found = version_of(source)
    return found[0] if found else source.name


def _parsed(source: Path) -> tuple[str, int]:
    analysis.refuse_link(source)
    found = version_of(source)
    if source.is_file():
        raise DropRejected(
            f"{source.name} is a file; put it into a folder of its own, named as the model",
            reason="single-file",
        )
    if found is None:
        raise DropRejected(
            f"{source.name!r} is not a valid model name: rename it to up to 128 letters, digits, "
            "'.', '_' and '-', starting with a letter or digit",
            reason="name",
        )
    return found


async def _register(
    services: Services,
    source: Path,
    version: int,
    profile: ModelProfile,
    own: Standing,
    asked: Asked,
    seal: str,
    wishes: Wishes | None,
) -> Model:
    store, name = services.store.blocking, _name(source)

    def register() -> Model:
        if str(source) in store.lineage.paths():  # by another run, meanwhile
            return store.model(name)
        if store.lineage.relocate(name, version, digest=profile.digest, path=source):
            store.lineage.set_seal(name, version, seal)
            return store.model(name)
        return enter(
            store,
            name,
            path=source,
            version=version,
            profile=profile,
            own=own,
            asked=asked,
            seal=seal,
            wishes=wishes,
        )

    return await asyncio.to_thread(register)
