"""Drops that become no model: what is recorded of them, and where they end."""

from __future__ import annotations

import asyncio
from pathlib import Path

from modelium.errors import DropRejected, InputError
from modelium.intake.fingerprint import fingerprint
from modelium.intake.names import model_name
from modelium.models import Drop, DropState, Report
from modelium.stages.services import Services
from modelium.tasks import on_thread


async def incomplete(services: Services, source: Path, missing: str, *, name: str | None) -> Report:
    """Note what the drop at ``source`` lacks, or reject it when it has not changed for long."""
    found = await asyncio.to_thread(fingerprint, source)
    if found is None:
        raise InputError(f"{source} does not exist; check the path and try again")
    model, limit_s = name or model_name(source), services.config.ingest.incomplete_after_seconds
    if services.clock.system_time() - found.changed_at >= limit_s:
        exc = DropRejected(
            f"{source.name} is incomplete: {missing} (it did not change for {_span(limit_s)}; "
            "complete it, then move it into the drop zone again)",
            reason="incomplete",
        )
        return await refuse(services, source, exc, name=name)
    return await note_incomplete(services, source, missing, name=model)


async def refuse(
    services: Services, source: Path, exc: DropRejected, *, name: str | None
) -> Report:
    """Reject a drop that was not staged. It is moved out of the drop zone, and never from else."""
    kept = await on_thread(services.repository.reject_unstaged, source, exc)
    if kept is None and services.repository.zone.holds(source):
        return await refuse_in_place(services, source, exc, name=name or model_name(source))
    services.pending.withdraw(source)
    return await rejected(services, name or model_name(source), exc)


async def refuse_in_place(
    services: Services, source: Path, exc: DropRejected, *, name: str, digest: str = ""
) -> Report:
    """Note that the entry ``source`` is refused; it is not moved."""
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
            team=services.repository.zone.team_of(source),
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


async def note_incomplete(services: Services, source: Path, missing: str, *, name: str) -> Report:
    """Note what the entry ``source`` lacks; it stays where it is."""
    found = await asyncio.to_thread(fingerprint, source)
    services.pending.note(
        Drop(
            name=source.name,
            model=name,
            state=DropState.INCOMPLETE,
            path=str(source),
            since=found.changed_at if found else services.clock.time(),
            rule="incomplete",
            reason=missing,
            team=services.repository.zone.team_of(source),
        )
    )
    await services.store.events.append("drop.incomplete", model=name, missing=missing)
    return Report(
        stage="ingest",
        outcome="incomplete",
        model=name,
        reason=f"{missing}; it is tried again when it changes",
        details={"path": str(source), "missing": missing},
    )


def _span(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.0f} h" if hours >= 2 else f"{seconds:.0f} s"


async def rejected(services: Services, name: str, exc: DropRejected) -> Report:
    """Record that a drop was rejected, and kept."""
    await services.store.events.append(
        "drop.rejected", model=name, reason=exc.reason, message=str(exc)
    )
    hint = f"; `modelium approve {name}` accepts it" if exc.approvable else ""
    return Report(
        stage="ingest",
        outcome="rejected",
        model=name,
        reason=f"{exc}{hint}",
        details={"rule": exc.reason, "approvable": exc.approvable},
    )
