"""Whether another version of a loaded model could take its place, or has to wait."""

from __future__ import annotations

from modelium.lifecycle import ModelState
from modelium.models import Decision, Fleet, Keep, Model, Plan, Queue, Trigger
from modelium.stages.newcomers import examine
from modelium.stages.planning import asked
from modelium.stages.services import Services
from modelium.stages.snapshot import snapshot
from modelium.store import new_id

RETRY_S = 30.0
"""Between two looks at whether a version that waits can be loaded."""


async def waits(services: Services, model: Model) -> bool:
    """Whether the current version of ``model`` has to wait, so that the loaded one serves on.

    It has where it could not be loaded even if the loaded one left: its team has used up its
    GPU-seconds, for example. `resume` begins again once it can be.
    """
    why = await _barred(services, model.name)
    if not why:
        return False
    services.switching.postpone(model.name, services.clock.monotonic() + RETRY_S)
    if model.name not in services.awaiting:
        services.awaiting.add(model.name)
        loaded = model.deployment.version if model.deployment else 0
        await _record(
            services,
            model.name,
            f"version {loaded} serves on, version {model.version} waits: {why}",
        )
    return True


async def resume(services: Services, model: Model) -> None:
    """Begin the replacement again where the version that waited can be loaded now."""
    if not await waits(services, model):
        services.awaiting.discard(model.name)
        examine(services, model.name)


async def _barred(services: Services, name: str) -> str:
    """Return why the current version would be queued if nothing of ``name`` were loaded."""
    fleet = without(await snapshot(services), name)
    question = asked(services, Trigger.INGEST, name)
    plan = await services.brain.decide(question, fleet, services.policy)
    own = next((action for action in plan.actions if action.model == name), None)
    return own.reason if isinstance(own, Queue | Keep) else ""


def without(fleet: Fleet, name: str) -> Fleet:
    """Return ``fleet`` as it would be if what is loaded of ``name`` had left."""
    back: dict[str, int] = {}
    for booking in fleet.bookings:
        if booking.model == name:
            back[booking.device] = back.get(booking.device, 0) + booking.held_bytes
    gone = {"state": ModelState.ANALYZED, "deployment": None}
    return fleet.model_copy(
        update={
            "models": tuple(
                m.model_copy(update=gone) if m.name == name else m for m in fleet.models
            ),
            "bookings": tuple(b for b in fleet.bookings if b.model != name),
            "devices": tuple(
                d.model_copy(update={"free_bytes": d.free_bytes + back.get(d.id, 0)})
                for d in fleet.devices
            ),
        }
    )


async def _record(services: Services, name: str, reason: str) -> None:
    """Record the wait as a decision, so that `explain` shows it."""
    now = services.clock.time()
    plan = Plan(author="rules", trigger=Trigger.INGEST, subject=name, reason=reason)
    await services.store.decisions.record(
        Decision(
            id=new_id(), at=now, plan=plan, snapshot_digest="", outcome="done", finished_at=now
        )
    )
