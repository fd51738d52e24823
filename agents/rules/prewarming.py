"""Whether a request for an unloaded model is expected soon (pure)."""

from __future__ import annotations

from agents.rules.keep_value import arrival_chance
from modelium.models import Traffic
from modelium.traffic.daily_pattern import days_begun

AHEAD_S = 60.0
"""Seconds beyond its load time that a model is loaded ahead: a few ticks of the control loop."""

LEAST_CHANCE = 0.35
"""Least probability of a request in that time. With a lower one, unused loads cost more
load-seconds on a full machine than the useful ones save (`bench/replay.py --prewarm`)."""

LEAST_HABIT = 0.5
"""Least share of the last days on which requests began at this time: five of seven are working
days."""


def expected_soon(traffic: Traffic, *, now: float, load_s: float) -> tuple[float, str]:
    """Return the probability of a request within a load's time, and the evidence as text.

    0 and an empty text where it is too low to load the model ahead.
    """
    within_s = load_s + AHEAD_S
    chance = arrival_chance(traffic, now=now, within_s=within_s)
    if chance >= LEAST_CHANCE:
        return chance, f"{chance:.0%} of its past gaps like this ended within {within_s:.0f} s"
    if traffic.first_request_at is None:
        return 0.0, ""
    begun, days = days_begun(
        traffic.habit, now=now, within_s=within_s, since=traffic.first_request_at
    )
    if days and begun / days >= LEAST_HABIT:
        return begun / days, f"requests began at this time on {begun} of the last {days} days"
    return 0.0, ""
