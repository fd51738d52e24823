"""What an API key of a team may do for whom: a key with a team acts for that team alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from fastapi import Depends, Request

from modelium.control.operations import Operations
from modelium.gateway.access.keyring import KeyHolder, key_holder
from modelium.gateway.problems import HttpProblem
from modelium.models import Model, Priority, Trigger
from modelium.models.api_keys import ApiKey, KeyTerms
from modelium.models.teams import named


def team_of(holder: KeyHolder | None) -> str | None:
    """Return the team that ``holder`` is bound to; ``None``: it acts for any, or it is nobody's."""
    return holder.key.team if holder is not None else None


def bound(holder: KeyHolder | None, team: str | None, *, to: str) -> str | None:
    """Return the team that ``holder`` acts for where it names ``team``.

    ``to``: what it wants, for the message.

    Raises:
        HttpProblem: 403, ``team`` is not the key's, or the key has none and is no operator's.
    """
    if holder is None or (holder.key.team is None and (team is None or holder.has("admin"))):
        return team
    own = holder.key.team
    if team is None or team == own:
        return own
    message = f"this key belongs to {named(own)} and cannot {to} {team or 'no team'}"
    raise HttpProblem(403, message, reason="team")


def check_replaces(key: ApiKey, name: str, known: Model | None) -> None:
    """Raise `HttpProblem` (403) if ``key`` may not ingest the model ``name``.

    It may ingest those that its terms name; without such terms, new ones. A key of a team replaces
    that team's models alone, whatever it names.
    """
    if key.models and name not in key.models:
        raise HttpProblem(403, f"this key may not ingest {name}", reason="model-not-allowed")
    if known is None or (key.models if key.team is None else known.team == key.team):
        return
    may = (
        f"models of team {key.team}"
        if key.team
        else "those it names (`modelium keys create --model`)"
    )
    raise HttpProblem(
        403,
        f"{name} belongs to {named(known.team)}; this key may replace {may}",
        reason="team",
    )


def check_revokes(holder: KeyHolder | None, key_id: str, keys: Iterable[ApiKey]) -> None:
    """Raise `HttpProblem` (403) if ``holder`` has a team and the key ``key_id`` is another's."""
    team = team_of(holder)
    if team and any(key.id == key_id and key.team != team for key in keys):
        message = f"this key belongs to team {team} and revokes no keys of others"
        raise HttpProblem(403, message, reason="team")


def asker(request: Request) -> Trigger:
    """Return the trigger of a load that ``request`` asks for: a team's keeps the team's quotas."""
    return Trigger.OPERATOR if team_of(key_holder(request.scope)) is None else Trigger.TEAM


def only_operators(to: str) -> Any:
    """Return a dependency of a route to do ``to``, which concerns all teams: no team's key may."""

    async def check(request: Request) -> None:
        if team := team_of(key_holder(request.scope)):
            message = f"this key belongs to team {team}, and only an operator may {to}"
            raise HttpProblem(403, message, reason="team")

    return Depends(check)


def issuable(terms: KeyTerms, holder: KeyHolder | None) -> KeyTerms:
    """Return ``terms`` as ``holder`` may issue them: a team's key issues no more than its own.

    Where they leave out a limit of that key, they have it.

    Raises:
        HttpProblem: 403, they name another team, or more than the key has.
    """
    team = bound(holder, terms.team, to="issue keys of")
    if holder is None or holder.key.team is None:
        return terms.model_copy(update={"team": team})
    own, update = holder.key, {"team": team}
    for term in ("expires_at", "models", "requests_per_minute", "max_concurrent", "priority"):
        most, wanted = getattr(own, term), getattr(terms, term)
        if most and not wanted:
            update[term] = most
        elif wanted and _exceeds(term, wanted, holder):
            message = f"this key issues no key with more than its own {term}"
            raise HttpProblem(403, message, reason="team")
    return terms.model_copy(update=update)


def _exceeds(term: str, wanted: Any, holder: KeyHolder) -> bool:
    """Whether ``wanted`` is more than ``holder`` has of ``term``."""
    most = getattr(holder.key, term)
    if term == "priority":
        # Requests without a class wait as those of the lowest.
        return bool(wanted.rank < (holder.priority or Priority.LOW).rank)
    if not most:
        return False
    return not wanted <= most  # a number, or a set of models


def check_acts(operations: Operations) -> Callable[[Request], Awaitable[None]]:
    """Return a check of each request: a key with a team changes that team's models alone."""

    async def check(request: Request) -> None:
        team = team_of(key_holder(request.scope))
        name = request.path_params.get("model")
        if team is None or name is None or request.method == "GET":
            return
        model = await operations.model(name)
        if model.team != team:
            message = f"this key belongs to team {team}, and {name} to {named(model.team)}"
            raise HttpProblem(403, message, reason="team")

    return check
