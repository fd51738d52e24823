"""The order of waiting models of several teams: each class is shared fairly (no I/O here).

Start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996) with GPU-seconds as the service: the tag
of a model is what its team has had and is about to have before it, divided by the team's weight,
and the smallest tag goes first. Starving models have no tag: a share would let new ones of other
teams pass them for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from agents.rules.ranking import STARVED, Rank
from modelium.models import Fleet, Model
from modelium.policy import Policy
from modelium.policy.quotas import rates, team_name

TERM_S = 3600.0
"""How long a load is taken to last: a model is unloaded about an hour after its last request."""

Key = tuple[float, int, float, int, Rank]
"""Sort key of a waiting model; the smaller goes first."""


def fair_order(
    waiting: Iterable[Model],
    fleet: Fleet,
    policy: Policy,
    *,
    rank: Callable[[Model], Rank],
    advised: Mapping[str, int] | None = None,
) -> list[Model]:
    """Return ``waiting`` in the order to load it.

    Urgent models first, then by class, as ``rank`` says. Within a class the teams take turns, and
    within a team an advisor's order counts before the rest of the rank. Starving models and, where
    no team is declared, all others take no turns.

    Args:
        waiting: models without memory.
        fleet: what the teams hold and have used.
        policy: the weights; a team that is not declared, and models without a team, have weight 1.
        rank: `agents.rules.ranking.rank` of a model.
        advised: model → place in the order of an advisor, which does not order urgent models.
    """
    places = advised or {}
    last = len(places)

    def own(model: Model) -> tuple[float, int, int, Rank]:
        by_rules = rank(model)
        place = places.get(model.name, last) if by_rules[0] else 0
        return by_rules[0], by_rules[1], place, by_rules

    ranked = sorted(((own(model), model) for model in waiting), key=lambda each: each[0])
    if not policy.teams:
        return [model for _, model in ranked]
    had = {team: rate * TERM_S for team, rate in rates(fleet).items()}
    for team, used in fleet.used.items():
        had[team] = had.get(team, 0.0) + used
    device = max((d.total_bytes for d in fleet.devices), default=0)
    tagged: list[tuple[Key, Model]] = []
    for (urgent, level, place, by_rules), model in ranked:
        team = team_name(model)
        rules = policy.teams.get(team)
        so_far = had.get(team, 0.0)
        weight = rules.weight if rules is not None else 1.0
        tag = 0.0 if level == STARVED else so_far / weight
        tagged.append(((urgent, level, tag, place, by_rules), model))
        had[team] = so_far + TERM_S * _share(model, device)
    return [model for _, model in sorted(tagged, key=lambda each: each[0])]


def _share(model: Model, device_bytes: int) -> float:
    """Return the part of a device that the weights of ``model`` take; above 1 for several."""
    if model.profile is None or device_bytes <= 0:
        return 0.0
    return model.profile.weight_bytes / device_bytes
