"""Whose a model is, and who may replace it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from modelium.config import Config
from modelium.errors import DropRejected, InputError
from modelium.intake.names import is_name
from modelium.models import Model
from modelium.models.teams import named
from modelium.stages.services import Services
from modelium.stages.standing import Asked, claimed_team


async def check_owner(services: Services, name: str, team: str | None) -> None:
    """Raise `DropRejected` where a drop of ``team`` would replace a model that is not the team's.

    ``team``: whose drop it is; ``None``: an operator's, which may replace any model.
    """
    if team is None:
        return
    known = await services.store.find(name)
    entry = services.config.models.get(name)
    owner = known.team if known is not None else entry.team if entry is not None else None
    if owner is None and known is None and not _prepared(services.config, name):
        return  # it is new, and the configuration neither gives nor allows it anything
    if owner != team:
        raise DropRejected(
            f"{name} belongs to {named(owner)}, and team {team} cannot replace it; drop it under "
            "another name, or ask an operator",
            reason="team",
        )


def _prepared(config: Config, name: str) -> bool:
    """Whether the configuration allows or gives the model ``name`` what a team cannot."""
    entry = config.models.get(name)
    return name in config.orchestration.policies.always_loaded or (
        entry is not None and (bool(entry.approvals) or entry.pinned or entry.priority is not None)
    )


async def own_source(services: Services, path: Path, team: str) -> Path:
    """Return ``path`` without links, where a key of ``team`` may have it ingested.

    What lies in Modelium's own folders has to be the team's; where no teams are declared, the drop
    zone is anybody's.

    Raises:
        InputError: it is another's.
    """
    repository = services.repository
    source, folder = await asyncio.to_thread(repository.located, path)
    if folder is None or (folder == repository.incoming and not repository.zone.teams):
        return source
    in_trash = source.parent.parent == repository.trash.folder
    if folder == repository.published and not in_trash:
        entry = source.relative_to(folder).parts[:1] if source.is_relative_to(folder) else ()
        known = await services.store.find(entry[0].partition("@")[0]) if entry else None
        owner = known.team if known is not None else None
    else:
        owner = await asyncio.to_thread(repository.team_of, source)
    if owner != team:
        raise InputError(
            f"{path} belongs to {named(owner)}, and a key of team {team} cannot have it ingested; "
            "drop it into the team's folder, or ask an operator"
        )
    return source


async def kept(services: Services, name: str, asked: Asked) -> Asked:
    """Return ``asked``, and what came with an earlier version where this one says nothing.

    Whoever brings the next version of a model does not take it from its team.
    """
    before = (await services.store.rules.asked()).get(name, {})
    team = before.get("team") or claimed_team(services.config, before)
    had = {"team": team, "priority_ceiling": before.get("priority_ceiling")}
    return {**asked, **{k: value for k, value in had.items() if value and not asked.get(k)}}


async def check_heeded(services: Services, known: Model, given: Asked) -> None:
    """Raise `InputError` where ``given`` would change the standing of a model that stays as it is.

    Only new content brings a team and a ceiling.
    """
    before = (await services.store.rules.asked()).get(known.name, {})
    has = {"team": known.team, "priority_ceiling": known.priority_ceiling.value}
    for key, value in given.items():
        if value and value not in (before.get(key), has[key]):
            raise InputError(
                f"{known.name} is registered with this content, and its {key} stays "
                f"{has[key] or 'unset'}; set models.{known.name}.{key} in the configuration"
            )


def check_team(config: Config, team: str | None) -> None:
    """Raise `InputError` where ``team`` is none that the configuration knows.

    Where it declares no teams, a team is but a label, and any valid name is one.
    """
    if team is None:
        return
    if not is_name(team):
        raise InputError(
            f"{team[:128]!r} is no name of a team: use up to 128 letters, digits, '.', '_' and "
            "'-', starting with a letter or digit"
        )
    named = {entry.team for entry in config.models.values()}
    important = config.orchestration.policies.high_priority_teams
    if config.teams and team not in {*config.teams, *important, *named}:
        raise InputError(
            f"team {team} is not declared; declared are {', '.join(sorted(config.teams))}: name "
            "one of them, or add it to `teams` in the configuration"
        )
