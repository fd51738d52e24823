"""One scenario, once: requests all the time, and what must hold after it."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.machines.fleet import Fleet
from tests.machines.scenarios import Scenario

SERVED_S = 180.0
"""Within this all models answer at every gateway after a fault."""

REST_S = 120.0
"""Within this nothing is on its way any more."""

POLL_S = 1.0


@dataclass(kw_only=True)
class Outcome:
    """Of one scenario."""

    scenario: str
    violations: list[str] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    figures: dict[str, float] = field(default_factory=dict)
    took_s: float = 0.0


def trial(fleet: Fleet, scenario: Scenario, *, seed: int) -> Outcome:
    """Have ``scenario`` happen, and say what was wrong."""
    began = time.monotonic()
    outcome = Outcome(scenario=scenario.name)
    rng = random.Random(f"{scenario.name} {seed}")
    wrong = outcome.violations
    with fleet.clients.traffic(f"{scenario.name} {seed}"):
        time.sleep(1.0)  # so that requests are on their way when it happens
        try:
            outcome.figures = scenario.run(fleet, rng)
        except AssertionError as error:
            wrong.append(str(error))
        time.sleep(1.0)
    wrong += [
        f"the service of {machine.name} is dead"
        for machine in fleet.machines.values()
        if not machine.alive
    ]
    wrong += fleet.clients.all_answer(within_s=SERVED_S)
    wrong += _at_rest(fleet)
    wrong += fleet.observer.seen()
    account = fleet.clients.settle()
    wrong += account.wrong
    outcome.requests = account.verdicts
    outcome.took_s = time.monotonic() - began
    return outcome


def _at_rest(fleet: Fleet) -> list[str]:
    deadline = time.monotonic() + REST_S
    ready = [model.name for model in fleet.clients.models]
    while wrong := fleet.observer.at_rest(ready=ready):
        if time.monotonic() > deadline:
            return wrong
        time.sleep(POLL_S)
    return []
