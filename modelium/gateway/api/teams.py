"""What an API key of a team may do for whom: a key with a team acts for that team alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Request

from modelium.control.operations import Operations
from modelium.gateway.access.keyring import KeyHolder, key_holder
from modelium.gateway.problems import HttpProblem
from modelium.models import Model
from modelium.models.api_keys import ApiKey


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
    whose = f"team {own}" if own else "no team"
    message = f"this key belongs to {whose} and cannot {to} {team or 'no team'}"
    raise HttpProblem(403, message, reason="team")


def check_replaces(key: ApiKey, name: str, known: Model | None) -> None:
    """Raise `HttpProblem` (403) if ``key`` may not ingest the model ``name``.

    It may ingest those that its terms name; without such terms, new ones and its team's.
    """
    if name in key.models:
        return
    if key.models:
        raise HttpProblem(403, f"this key may not ingest {name}", reason="model-not-allowed")
    if known is not None and (key.team is None or known.team != key.team):
        raise HttpProblem(
            403,
            f"{name} belongs to {f'team {known.team}' if known.team else 'no team'}; this key may "
            "replace models of its own team, or those it names (`modelium keys create --model`)",
            reason="team",
        )


def check_acts(operations: Operations) -> Callable[[Request], Awaitable[None]]:
    """Return a check of each request: a key with a team changes that team's models alone."""

    async def check(request: Request) -> None:
        team = team_of(key_holder(request.scope))
        name = request.path_params.get("model")
        if team is None or name is None or request.method == "GET":
            return
        model = await operations.model(name)
        if model.team != team:
            whose = f"team {model.team}" if model.team else "no team"
            message = f"this key belongs to team {team}, and {name} to {whose}"
            raise HttpProblem(403, message, reason="team")

    return check
