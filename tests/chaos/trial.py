"""One fault, once: what is dropped and asked before, and what must hold after."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.ground import Ground, Unaimed

SERVED_S = 60.0
"""Within this all healthy models answer after a fault."""

Fault = Callable[[Ground, random.Random], None]
"""Makes something happen to the running service, and ends it: a killed service is started again.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Of one trial."""

    fault: str
    seed: int
    violations: list[str] = field(default_factory=list)
    took_s: float = 0.0
    tried: bool = True
    """False where the moment that the fault is aimed at did not come, or nothing of the kind
    runs here."""


def trial(ground: Ground, name: str, fault: Fault) -> Outcome:
    """Have ``fault`` happen, and say what was wrong after it."""
    began = time.monotonic()
    rng = random.Random(f"{name} {ground.seed}")
    tried, wrong = True, []
    for _ in range(rng.randint(1, 2)):
        ground.drop(start_s=rng.uniform(0.0, 0.5))
    with ground.client.traffic(ground.seed):
        time.sleep(rng.uniform(0.0, 1.5))
        try:
            fault(ground, rng)
        except Unaimed:
            tried = False
        except AssertionError as error:
            wrong = [str(error)[-2000:]]
        time.sleep(rng.uniform(0.3, 1.0))
    if not ground.alive():
        return Outcome(
            fault=name, seed=ground.seed, violations=[*wrong, "the service is dead"], tried=tried
        )
    deadline = time.monotonic() + SERVED_S
    for model in ground.client.models:
        if not ground.served(model, within_s=deadline - time.monotonic()):
            wrong.append(f"{model} ({ground.state(model) or 'not registered'}) does not answer")
    wrong += ground.at_rest()
    if not wrong:
        wrong += tidied(ground, rng)
    took = time.monotonic() - began
    return Outcome(fault=name, seed=ground.seed, violations=wrong, took_s=took, tried=tried)


def tidied(ground: Ground, rng: random.Random) -> list[str]:
    """Remove all models but one, so that a service that takes many trials stays small."""
    models = ground.client.models
    for model in rng.sample(models, len(models) - 1):
        models.remove(model)
        if (status := ground.order("DELETE", f"/models/{model}")) not in (200, 202):
            return [f"the removal of {model} was answered with {status}"]
    return ground.at_rest()
