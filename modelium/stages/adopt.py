"""Adopt: register a folder that somebody put into the repository, where it is."""

from __future__ import annotations

import asyncio
from pathlib import Path

from modelium import analysis
from modelium.errors import DropRejected
from modelium.intake.names import version_of
from modelium.models import Drop, DropState, Model, ModelProfile, Report
from modelium.ports import Steps
from modelium.stages.drop_outcomes import note_incomplete
from modelium.stages.registration import announce, check, digest_of, enter
from modelium.stages.services import Services
from modelium.stages.standing import Standing, standing


async def adopt(services: Services, source: Path, *, missing: str | None, steps: Steps) -> Report:
    """Register the entry ``source`` of the repository; what is refused stays there.

    ``NAME`` is version 1 and ``NAME@2`` version 2 of a model. The highest version becomes the
    current one; a version that the store knows at another path has been moved here.
    """
    if (await services.store.paths()).get(str(source)):
        return Report(stage="ingest", outcome="unchanged", reason=f"{source.name} is registered")
    if missing or (missing := await asyncio.to_thread(analysis.is_complete, source)):
        return await note_incomplete(services, source, missing, name=_name(source))
    digest = ""
    try:
        name, version = _parsed(source)
        digest = await steps("digest", digest_of, source)
        profile = await steps("check", check, services, name, source, digest)
    except DropRejected as exc:
        return await _refused(services, source, exc, digest)
    own = standing(services.config, name, {})
    record = await steps("register", _register, services, source, version, profile, own)
    services.pending.withdraw(source)
    if Path(record.path) == source:
        return await announce(services, record, source)
    return Report(
        stage="ingest",
        outcome="registered",
        model=name,
        reason=f"an older version than the current one, {record.version}",
        details={"digest": digest, "version": version, "path": str(source)},
    )


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
    services: Services, source: Path, version: int, profile: ModelProfile, own: Standing
) -> Model:
    store, name = services.store.blocking, _name(source)

    def register() -> Model:
        if str(source) in store.paths():  # by another run, meanwhile
            return store.model(name)
        if store.relocate(name, version, digest=profile.digest, path=source):
            return store.model(name)
        return enter(store, name, path=source, version=version, profile=profile, own=own)

    return await asyncio.to_thread(register)


async def _refused(services: Services, source: Path, exc: DropRejected, digest: str) -> Report:
    """Note that the repository's own entry ``source`` is refused; it is not moved."""
    name = _name(source)
    services.pending.note(
        Drop(
            name=source.name,
            model=name,
            state=DropState.REJECTED,
            path=str(source),
            since=services.clock.time(),
            rule=exc.reason,
            reason=str(exc),
            approvable=exc.approvable,
            digest=digest,
        )
    )
    await services.store.events.append(
        "drop.rejected", model=name, reason=exc.reason, message=str(exc), path=str(source)
    )
    return Report(
        stage="ingest",
        outcome="rejected",
        model=name,
        reason=str(exc),
        details={"rule": exc.reason, "approvable": exc.approvable, "path": str(source)},
    )
