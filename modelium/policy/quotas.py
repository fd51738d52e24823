"""What each team holds and has used, compared with its quotas (no I/O here).

A GPU-second is a second for which a model holds a whole device; half of its memory counts half. A
CPU counts as a device.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from modelium.models import Booking, Fleet, Model, Trigger
from modelium.policy.action_checks import Fault, gib
from modelium.policy.policy import Policy, TeamRules


def team_name(model: Model) -> str:
    """Return the team of ``model``; empty where it has none."""
    return model.team or ""


def rates(fleet: Fleet) -> dict[str, float]:
    """Return team → GPU-seconds per second that its models use now; ``""``: those without one."""
    found: dict[str, float] = {}
    for booking in fleet.bookings:
        model = fleet.models_by_name.get(booking.model)
        device = fleet.devices_by_id.get(booking.device)
        if model is not None and device is not None and device.total_bytes > 0:
            team = team_name(model)
            found[team] = found.get(team, 0.0) + booking.bytes / device.total_bytes
    return found


def team_bytes(
    team: str, fleet: Fleet, more: Iterable[Booking] = (), *, leaving: Collection[str] = ()
) -> int:
    """Return the bytes booked for models of ``team``.

    Args:
        team: its name.
        fleet: its models and bookings.
        more: bookings of a plan.
        leaving: models whose bookings count as released.
    """
    models = fleet.models_by_name
    return sum(
        booking.bytes
        for booking in (*fleet.bookings, *more)
        if booking.model in models
        and models[booking.model].team == team
        and booking.model not in leaving
    )


def rules_for(
    model: Model, fleet: Fleet, policy: Policy, *, trigger: Trigger, subject: str | None
) -> TeamRules | None:
    """Return the quotas that a load of ``model`` has to keep; ``None``: it has to keep none.

    An operator's own load is free (one that a team's key asks for is not), and so are models that
    the operator pinned or listed in ``always_loaded``, in every version; what they hold counts.
    """
    base = fleet.models_by_name.get(model.twin_of or model.name, model)
    if model.team is None or base.pinned or base.name in policy.always_loaded:
        return None
    if trigger is Trigger.OPERATOR and subject == model.name:
        return None
    return policy.teams.get(model.team)


def spent(team: str | None, fleet: Fleet, policy: Policy) -> str:
    """Return that ``team`` has used up its GPU-seconds; empty where it has not."""
    rules = policy.teams.get(team or "")
    most = rules.gpu_seconds_per_day if rules is not None else None
    used = fleet.used.get(team or "", 0.0)
    if most is None or used < most:
        return ""
    return (
        f"team {team} has used {used:.0f} GPU-seconds in 24 h; its gpu_seconds_per_day is {most:g}"
    )


def exceeded(team: str, held: int, wanted: int, rules: TeamRules) -> str:
    """Return that ``wanted`` bytes more are above the memory quota; empty where they are not.

    ``held``: bytes that the other models of ``team`` hold.
    """
    most = rules.memory_bytes
    if most is None or held + wanted <= most:
        return ""
    return (
        f"needs {gib(wanted)} beside the {gib(held)} that team {team} holds; its memory_quota_gib "
        f"is {gib(most)}"
    )


def quota_faults(
    model: Model,
    wanted: int,
    fleet: Fleet,
    policy: Policy,
    rules: TeamRules | None,
    *,
    planned: Iterable[Booking],
    leaving: Collection[str],
) -> Iterator[Fault]:
    """Yield the quotas of its team that a load of ``model`` exceeds.

    Args:
        model: the model to load.
        wanted: bytes that the load reserves on all its devices.
        fleet: the snapshot.
        policy: the operator's rules.
        rules: `rules_for` the model.
        planned: bookings of the plan's earlier loads.
        leaving: models that the plan unloads before.
    """
    if rules is None or model.team is None:
        return
    over = spent(model.team, fleet, policy)
    if over:
        yield ("team-quota", over)
    held = team_bytes(model.team, fleet, planned, leaving={*leaving, model.name})
    over = exceeded(model.team, held, wanted, rules)
    if over:
        yield ("team-quota", over)
