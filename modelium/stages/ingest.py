"""Ingest: from a drop to a registered model, or to ``rejected/`` with the reason."""

from __future__ import annotations

import asyncio
from pathlib import Path

from modelium import analysis
from modelium.config import ModelEntry
from modelium.errors import DropRejected, InputError, Unavailable
from modelium.intake.fingerprint import fingerprint
from modelium.intake.repository import ModelRepository, Staged, model_name
from modelium.models import Drop, DropState, Model, ModelProfile, Report
from modelium.ports import Steps
from modelium.stages.engine_catalog import engines
from modelium.stages.inline import inline_steps
from modelium.stages.services import Services
from modelium.stages.standing import Asked, standing

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
    steps: Steps = inline_steps,
) -> Report:
    """Ingest ``path``: stage, check, publish, register; then start its analysis.

    Args:
        services: the ports and the store.
        path: a folder, a file or an archive; moved when it is in the drop zone, else copied.
        name: the model's name; default: that of the file or folder.
        team: owning team, where the configuration names none.
        priority_ceiling: highest priority class that a plan may give it.
        intent: id of the operator's request, for the record.
        missing: what a drop in the drop zone lacks; default: that is found out.
        steps: how steps are run.

    A refused drop is the outcome ``rejected``, not an error; it is kept with the reason. One in
    the drop zone that is ``incomplete`` stays there, and is rejected when it has not changed for
    the configured time.
    """
    repository, source = services.repository, Path(path)
    asked = {"team": team, "priority_ceiling": priority_ceiling}
    dropped = source.parent == repository.incoming
    if dropped and missing is None:
        missing = await asyncio.to_thread(analysis.is_complete, source)
    if dropped and missing:
        return await _incomplete(services, source, missing, name=name)
    try:
        staged = await steps("stage", _stage, repository, source, name)
    except DropRejected as exc:
        if dropped and exc.reason == "truncated":
            return await _incomplete(services, source, str(exc), name=name)
        await asyncio.to_thread(repository.reject_unstaged, source, exc)
        services.pending.withdraw(source)
        return await _rejected(services, name or model_name(source), exc)
    services.pending.withdraw(source)
    digest = ""
    try:
        digest = await steps("digest", _digest, staged)
        profile = await steps("check", _check, services, staged, digest)
    except DropRejected as exc:
        await asyncio.to_thread(repository.reject, staged, exc, digest=digest, asked=asked)
        return await _rejected(services, staged.name, exc)
    await _removed(services, staged.name)
    known = await services.store.find(staged.name)
    if known and known.digest == digest:
        await asyncio.to_thread(repository.discard, staged)
        return Report(
            stage="ingest",
            outcome="unchanged",
            model=staged.name,
            reason="the repository already has this content",
            details={"digest": digest, "version": known.version},
        )
    record = await steps("publish", _publish, services, staged, profile, asked)
    services.switchboard.know(await services.store.versions())
    await services.store.events.append(
        "model.registered", model=record.name, version=record.version
    )
    services.launcher.start(services.launcher.analyze(model=record.name))
    return Report(
        stage="ingest",
        outcome="registered",
        model=record.name,
        reason=f"version {record.version} from {source.name}",
        details={"digest": digest, "version": record.version, "path": record.path},
    )


async def _stage(repository: ModelRepository, source: Path, name: str | None) -> Staged:
    return await asyncio.to_thread(repository.stage, source, name=name)


async def _digest(staged: Staged) -> str:
    return await asyncio.to_thread(analysis.digest, staged.folder)


async def _check(services: Services, staged: Staged, digest: str) -> ModelProfile:
    """Return the drop's profile; raise `DropRejected` for what is unsafe, incomplete, unknown."""
    entry = services.config.models.get(staged.name, ModelEntry())
    approvals = entry.approvals | await services.store.approvals(digest)
    if services.policy.allow_remote_code:
        approvals |= {"remote-code"}
    if services.policy.allow_pickle:
        approvals |= {"pickle"}
    known = await asyncio.to_thread(engines, services.config)
    examined = await asyncio.to_thread(
        analysis.examine, staged.folder, approvals=approvals, engines=known
    )
    if examined.profile is None:
        raise DropRejected(f"{staged.name} is incomplete: {examined.missing}", reason="incomplete")
    if approvals:
        await services.store.approve(staged.name, digest=digest, what=approvals)
    return examined.profile.model_copy(update={"digest": digest})


async def _publish(
    services: Services, staged: Staged, profile: ModelProfile, asked: Asked
) -> Model:
    store, repository = services.store.blocking, services.repository

    def publish() -> Model:
        found = store.find(staged.name)
        if found is not None and found.removal is not None:
            raise Unavailable(f"{staged.name} is being removed; its files are kept in staging")
        # On one thread, which a cancellation does not stop: a published folder is registered.
        version = store.next_version(staged.name)
        path = repository.publish(staged, version=version)
        # The configuration may have changed since the drop was noticed.
        own = standing(services.config, staged.name, asked)
        record = store.register(
            staged.name,
            path=path,
            digest=profile.digest,
            team=own.team,
            priority=own.priority,
            priority_ceiling=own.ceiling,
            pinned=own.pinned,
            profile=profile,
        )
        store.rules.note_standing(staged.name, asked=asked, declared=own.columns())
        return record

    return await asyncio.to_thread(publish)


async def _incomplete(
    services: Services, source: Path, missing: str, *, name: str | None
) -> Report:
    """Note what the drop at ``source`` lacks, or reject it when it has not changed for long."""
    found = await asyncio.to_thread(fingerprint, source)
    if found is None:
        raise InputError(f"{source} does not exist; check the path and try again")
    model, limit_s = name or model_name(source), services.config.ingest.incomplete_after_seconds
    if services.clock.time() - found.changed_at >= limit_s:
        exc = DropRejected(
            f"{source.name} is incomplete: {missing} (it did not change for {_span(limit_s)}; "
            "complete it, then move it into the drop zone again)",
            reason="incomplete",
        )
        await asyncio.to_thread(services.repository.reject_unstaged, source, exc)
        services.pending.withdraw(source)
        return await _rejected(services, model, exc)
    services.pending.note(
        Drop(
            name=source.name,
            model=model,
            state=DropState.INCOMPLETE,
            path=str(source),
            since=found.changed_at,
            rule="incomplete",
            reason=missing,
        )
    )
    await services.store.events.append("drop.incomplete", model=model, missing=missing)
    return Report(
        stage="ingest",
        outcome="incomplete",
        model=model,
        reason=f"{missing}; it is tried again when it changes",
        details={"path": str(source), "missing": missing},
    )


def _span(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.0f} h" if hours >= 2 else f"{seconds:.0f} s"


async def _removed(services: Services, name: str) -> None:
    """Wait until an earlier model of that name is gone, where it is being removed."""
    deadline = services.clock.monotonic() + REMOVAL_S
    while services.clock.monotonic() < deadline:
        known = await services.store.find(name)
        if known is None or known.removal is None:
            return
        await services.clock.sleep(POLL_S)


async def _rejected(services: Services, name: str, exc: DropRejected) -> Report:
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
