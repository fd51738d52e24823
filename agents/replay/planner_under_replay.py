"""The production planner, with its traffic book, as a policy for simulated devices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from agents.replay.baselines import BASELINES
from agents.replay.policy import Assignment, DevicePool, ReplayPolicy, split_degree
from agents.replay.simulated_fleet import RUNTIME, SimulatedFleet, footprint
from agents.replay.traces import Trace
from agents.rules.keep_value import keep_value
from agents.rules.planner import RulePlanner
from agents.rules.prewarming import expected_soon
from agents.rules.ranking import Rank, rank
from modelium.models import Load, Trigger, Unload
from modelium.policy import Policy, RuntimeRules
from modelium.policy.eligibility import should_unload
from modelium.ports import Question

SWEEP_S = 60.0
"""Seconds between two sweeps that load ahead; the planner looks ahead as far beyond a load."""


def replay_policies(
    *, auto_unload_after_s: float | None = None
) -> dict[str, Callable[[Trace], ReplayPolicy]]:
    """Return every policy that a replay can run, by name.

    ``rules+prewarm`` loads ahead into free memory as the sweep does; those loads count.
    ``auto_unload_after_s`` adds ``rules+ttl``: the rules with that idle timeout.
    """
    found: dict[str, Callable[[Trace], ReplayPolicy]] = {
        "rules": PlannerUnderReplay,
        "rules+prewarm": lambda trace: PlannerUnderReplay(
            trace, name="rules+prewarm", sweep_s=SWEEP_S
        ),
        **BASELINES,
    }
    if auto_unload_after_s is not None:
        policy = unrestricted_policy(auto_unload_after_s=auto_unload_after_s)
        found["rules+ttl"] = lambda trace: PlannerUnderReplay(
            trace, policy=policy, name="rules+ttl"
        )
    return found


def unrestricted_policy(**given: float) -> Policy:
    """Return the operator's policy of a replay, ``given`` fields replaced.

    All memory is usable, nothing is unloaded for idling, and models may be evicted at once: every
    replay policy has the same capacity and none has rules that others lack.
    """
    fields: dict[str, object] = {
        "auto_unload_after_s": math.inf,
        "max_gpu_memory_utilization": 1.0,
        "min_residency_s": 0.0,
        "reload_cooldown_s": 0.0,
        "runtimes": {RUNTIME: RuntimeRules()},
        **given,
    }
    return Policy.model_validate(fields)


class PlannerUnderReplay:
    """`policy.ReplayPolicy` over the production planner."""

    def __init__(
        self,
        trace: Trace,
        *,
        policy: Policy | None = None,
        name: str = "rules",
        sweep_s: float = math.inf,
    ) -> None:
        """Start without traffic.

        Args:
            trace: its models; its requests come by `on_arrival`.
            policy: the operator's; default `unrestricted_policy`.
            name: shown in tables.
            sweep_s: seconds between two sweeps that load ahead.
        """
        self.name = name
        self.sweep_s = sweep_s
        self.policy = policy or unrestricted_policy()
        self.ttl_s = self.policy.auto_unload_after_s
        self._planner = RulePlanner(estimate=footprint)
        self._fleet = SimulatedFleet(trace)
        self._trace = trace

    def on_arrival(self, model: int, now: float) -> None:
        """Count a request, as the gateway does."""
        self._fleet.clock.now = now
        self._fleet.on_arrival(model)

    def expired(self, model: int, idle_s: float, now: float, pool: DevicePool) -> bool:
        """Decide as the sweep does."""
        self._fleet.clock.now = now
        at = self._fleet.clock.time()
        known = self._fleet.model(model, pool, pending=0)
        if known.deployment is not None:
            # A model that was loaded ahead idles since its load, not since its last request.
            held = known.deployment.model_copy(update={"ready_at": at - idle_s})
            known = known.model_copy(update={"deployment": held})
        return should_unload(known, self.policy, now=at)

    def rank(self, waiting: Sequence[int], now: float, pool: DevicePool) -> Sequence[int]:
        """Order the models as the planner's queue does."""
        self._fleet.clock.now = now
        at = self._fleet.clock.time()

        def key(index: int) -> Rank:
            model = self._fleet.model(index, pool, pending=1)
            return rank(model, self.policy, now=at, value=keep_value(model, now=at))

        return sorted(waiting, key=key)

    def choose(self, model: int, now: float, pool: DevicePool) -> Assignment | None:
        """Ask the planner, as the gateway does when a request waits for ``model``."""
        self._fleet.clock.now = now
        fleet = self._fleet.snapshot([model], pool, pending=True)
        name = self._fleet.name(model)
        plan = self._planner.plan(
            Question(trigger=Trigger.DEMAND, model=name, now=fleet.at), fleet, self.policy
        )
        loads = [a for a in plan.actions if isinstance(a, Load)]
        if not loads:
            return None
        return Assignment(
            self._fleet.device_indices(loads[0].devices),
            tuple(self._fleet.model_index(a.model) for a in plan.actions if isinstance(a, Unload)),
        )

    def prewarm(self, now: float, pool: DevicePool) -> Sequence[tuple[int, Assignment]]:
        """Ask the planner, as the sweep does, about the models that it could load ahead."""
        self._fleet.clock.now = now
        at = self._fleet.clock.time()
        largest = max(pool.free(d) for d in range(len(pool.capacities())))
        loaded = frozenset(pool.loaded())
        soon = [
            model
            for model in range(len(self._trace.models))
            if model not in loaded
            and self._share(model, pool) <= largest
            and self._is_expected(model, at)
        ]
        if not soon:
            return ()
        fleet = self._fleet.snapshot(soon, pool, pending=False)
        plan = self._planner.plan(Question(trigger=Trigger.SWEEP, now=at), fleet, self.policy)
        return [
            (
                self._fleet.model_index(a.model),
                Assignment(self._fleet.device_indices(a.devices)),
            )
            for a in plan.actions
            if isinstance(a, Load)
        ]

    def _share(self, model: int, pool: DevicePool) -> int:
        size = self._trace.models[model].bytes
        return -(-size // (split_degree(size, pool.capacities()) or 1))

    def _is_expected(self, model: int, at: float) -> bool:
        load_s = self._trace.models[model].load_s
        chance, _ = expected_soon(self._fleet.traffic(model), now=at, load_s=load_s)
        return chance > 0
