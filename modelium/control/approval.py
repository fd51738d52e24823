"""Approval of a refused drop: which one is meant, and whether it may be ingested."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from modelium.errors import InputError
from modelium.intake.rejects import team_in
from modelium.models import Frozen
from modelium.stages.ownership import check_owner
from modelium.stages.services import Services


class Wanted(Frozen):
    """What an operator asks to be ingested, and what comes with it."""

    path: str
    name: str | None
    team: str | None
    priority_ceiling: str | None
    bound: str | None = None
    """The team of the key that asks."""


async def admit(
    services: Services, name: str, what: Sequence[str], *, team: str | None = None
) -> Wanted:
    """Allow what the refused drop ``name`` was refused for; return what to ingest.

    Args:
        services: the ports and the store.
        name: of the refused drop's folder, or of its model.
        what: ``remote-code``, ``pickle``; empty: the reason of the refusal.
        team: whose drop; empty: one of no team; ``None``: that of the only one that has any.

    Raises:
        InputError: there is none, it is not clear whose is meant, it cannot be approved, or it
            would replace a model of another team.
    """
    rules, repository = services.store.rules, services.repository
    for lying in services.pending.all() if not team else ():
        if lying.answers_to(name) and lying.approvable:  # in the repository, so an operator's
            allowed = tuple(what) or (lying.rule,)
            await rules.approve(lying.model, digest=lying.digest, what=allowed)
            return Wanted(path=lying.path, name=None, team=None, priority_ceiling=None)
    folder, reason = await asyncio.to_thread(repository.find_rejected, name, team=team)
    if not reason.get("approvable"):
        raise InputError(f"{name} was refused for {reason.get('reason')}, which cannot be approved")
    model, owner = str(reason["model"]), team_in(reason)
    await check_owner(services, model, owner)
    allowed = tuple(what) or (str(reason["reason"]),)
    await rules.approve(model, digest=str(reason["digest"]), what=allowed)
    return Wanted(
        path=str(await asyncio.to_thread(repository.readmit, folder)),
        name=model,
        team=owner,
        priority_ceiling=_text(reason.get("priority_ceiling")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
