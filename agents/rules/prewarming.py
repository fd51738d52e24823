"""Which unloaded models are about to be asked for, so that they may be loaded ahead."""

from __future__ import annotations

from agents.rules.keep_value import arrival_chance
from modelium.models import Traffic
from modelium.traffic.daily_pattern import days_begun

AHEAD_S = 60.0
"""How far beyond its own load time a model is loaded ahead: a few looks of the control loop."""

LEAST_CHANCE = 0.35
"""Least chance of a request in that time. Lower, the loads that nobody came for cost more
load-seconds on a full machine than the others save (`bench/replay.py --prewarm`)."""

LEAST_HABIT = 0.5
"""Least share of the last days on which requests began at this time: working days are five of
seven."""


def expected(traffic: Traffic, *, now: float, load_s: float) -> tuple[float, str]:
    """Return how likely a request comes within a load's time, and how that is known.

    0 where it is too unlikely to load a model ahead of it.
    """
    within_s = load_s + AHEAD_S
    chance = arrival_chance(traffic, now=now, within_s=within_s)
    if chance >= LEAST_CHANCE:
        return chance, f"a request is expected soon ({chance:.0%} by its past gaps)"
    if traffic.first_request_at is None:
        return 0.0, ""
    begun, days = days_begun(
        traffic.habit, now=now, within_s=within_s, since=traffic.first_request_at
    )
    if days and begun / days >= LEAST_HABIT:
        return begun / days, f"requests began at this time on {begun} of the last {days} days"
    return 0.0, ""
