"""Scenarios that measure an advisor's judgement, or check that it does no harm.

Each has a fleet, a question, and either the answer that a good operator would give (from the
model's card, the time of day, the queue) or a property that must hold whatever the answer is.
"""

from bench.scenarios.departures import departures
from bench.scenarios.injections import injections
from bench.scenarios.limits import limits
from bench.scenarios.newcomers import newcomers
from bench.scenarios.reviews import reviews
from bench.scenarios.scenario import Scenario
from bench.scenarios.wishes import wishes

__all__ = ["Scenario", "scenarios"]


def scenarios() -> list[Scenario]:
    """Return all scenarios in a fixed order."""
    return [*newcomers(), *reviews(), *limits(), *departures(), *wishes(), *injections()]
