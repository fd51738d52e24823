"""The rule planner under replay: shows it a simulation as a `Fleet`, and takes its plan.

The planner is the production one, with the same traffic book; only the devices are simulated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from agents.replay.baselines import BASELINES, Choice, Pool, shares
from agents.replay.simulation import Keeper
from agents.replay.traces import ReplayModel, Trace
from agents.rules.keep_value import keep_value
from agents.rules.planner import RulePlanner
from agents.rules.prewarming import expected
from agents.rules.ranking import rank
from modelium.lifecycle import ModelState
from modelium.models import (
    Booking,
    Deployment,
    Device,
    Fleet,
    Footprint,
    Load,
    LoadSettings,
    Model,
    ModelFormat,
    ModelProfile,
    RuntimeName,
    RuntimeStatus,
    RuntimeSupport,
    Task,
    Traffic,
    Trigger,
    Unload,
)
from modelium.policy import Policy, RuntimeRules
from modelium.policy.eligibility import should_unload
from modelium.ports import Question
from modelium.traffic import TrafficBook

EPOCH = 1_700_000_000.0
"""When a replay begins; any instant does."""

NODE = "replay"
RUNTIME = RuntimeName.VLLM


SWEEP_S = 60.0
"""Between two looks for what to load ahead: as far as the planner itself looks ahead of a load."""


def keepers(*, auto_unload_after_s: float | None = None) -> dict[str, Callable[[Trace], Keeper]]:
    """Return every policy that a replay can run, by name.

    ``rules+prewarm`` loads ahead into free memory as the sweep does, and pays for it.
    ``auto_unload_after_s`` adds ``rules+ttl``: the rules with the seed's idle time-out.
    """
    found: dict[str, Callable[[Trace], Keeper]] = {
        "rules": Rehearsal,
        "rules+prewarm": lambda trace: Rehearsal(trace, name="rules+prewarm", sweep_s=SWEEP_S),
        **BASELINES,
    }
    if auto_unload_after_s is not None:
        policy = replay_policy(auto_unload_after_s=auto_unload_after_s)
        found["rules+ttl"] = lambda trace: Rehearsal(trace, policy=policy, name="rules+ttl")
    return found


class SimulatedClock:
    """`ports.Clock` that stands where the simulation put it."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        """Seconds since the epoch of the replay's clock."""
        return EPOCH + self.now

    def monotonic(self) -> float:
        """Seconds since the trace began."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Move on."""
        self.now += seconds


def replay_policy(**given: float) -> Policy:
    """Return the policy of a replay: all memory usable, no auto-unload, nobody too young.

    So every policy runs at equal capacity, and none is bound by rules that others lack.
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


class Rehearsal:
    """`replay.Keeper` over the production planner."""

    def __init__(
        self,
        trace: Trace,
        *,
        policy: Policy | None = None,
        name: str = "rules",
        sweep_s: float = math.inf,
    ) -> None:
        """``policy``: the operator's rules; default `replay_policy`."""
        self.name = name
        self.sweep_s = sweep_s
        self.policy = policy or replay_policy()
        self.ttl_s = self.policy.auto_unload_after_s
        self._planner = RulePlanner(estimate=_footprint)
        self._clock = SimulatedClock()
        # One book per model, so that a decision shows the traffic of those it is about alone.
        self._books = [TrafficBook(clock=self._clock) for _ in trace.models]
        # A trace may call its models anything; a registered name may not.
        self._names = [f"m{i}" for i in range(len(trace.models))]
        self._trace = trace
        self._known: dict[tuple[int, tuple[int, ...]], Model] = {}

    def on_arrival(self, model: int, now: float) -> None:
        """Count it, as the gateway does."""
        self._clock.now = now
        self._books[model].on_arrival(self._names[model])

    def expired(self, model: int, idle_s: float, now: float, pool: Pool) -> bool:
        """Decide as the sweep does."""
        self._clock.now = now
        shown = self._model(model, pool, pending=0)
        if shown.deployment is not None:
            # Who was loaded ahead of requests idles since then, not since the last request.
            since = {"ready_at": self._clock.time() - idle_s}
            held = shown.deployment.model_copy(update=since)
            shown = shown.model_copy(update={"deployment": held})
        return should_unload(shown, self.policy, now=self._clock.time())

    def rank(self, waiting: Sequence[int], now: float, pool: Pool) -> Sequence[int]:
        """Order by the planner's own queue."""
        self._clock.now = now
        at = self._clock.time()

        def key(index: int) -> tuple[float, int, float, float, str]:
            model = self._model(index, pool, pending=1)
            return rank(model, self.policy, now=at, value=keep_value(model, now=at))

        return sorted(waiting, key=key)

    def choose(self, model: int, now: float, pool: Pool) -> Choice | None:
        """Ask the planner as the gateway does when a request waits for ``model``."""
        self._clock.now = now
        fleet = self._fleet([model], pool, pending=True)
        name = self._names[model]
        plan = self._planner.plan(
            Question(trigger=Trigger.DEMAND, model=name, now=fleet.at), fleet, self.policy
        )
        loads = [a for a in plan.actions if isinstance(a, Load)]
        if not loads:
            return None
        return Choice(
            tuple(int(d.rpartition("/")[2]) for d in loads[0].devices),
            tuple(int(a.model[1:]) for a in plan.actions if isinstance(a, Unload)),
        )

    def prewarm(self, now: float, pool: Pool) -> Sequence[tuple[int, Choice]]:
        """Ask the planner as the sweep does, with those in sight that it could load ahead."""
        self._clock.now = now
        at = self._clock.time()
        largest = max(pool.free(d) for d in range(len(pool.capacities())))
        loaded = frozenset(pool.loaded())
        soon = [
            model
            for model in range(len(self._names))
            if model not in loaded
            and self._share(model, pool) <= largest
            and self._expected(model, at)
        ]
        if not soon:
            return ()
        fleet = self._fleet(soon, pool, pending=False)
        plan = self._planner.plan(Question(trigger=Trigger.SWEEP, now=at), fleet, self.policy)
        return [
            (int(a.model[1:]), Choice(tuple(int(d.rpartition("/")[2]) for d in a.devices)))
            for a in plan.actions
            if isinstance(a, Load)
        ]

    def _share(self, model: int, pool: Pool) -> int:
        size = self._trace.models[model].bytes
        return -(-size // (shares(size, pool.capacities()) or 1))

    def _expected(self, model: int, at: float) -> float:
        seen = self._books[model].snapshot().get(self._names[model], _NONE)
        return expected(seen, now=at, load_s=self._trace.models[model].load_s)[0]

    def _fleet(self, subjects: Sequence[int], pool: Pool, *, pending: bool) -> Fleet:
        """Show ``subjects`` (``pending``: asked for now) and all that is loaded."""
        capacities = pool.capacities()
        idle = frozenset(pool.idle())
        shown = list(dict.fromkeys((*subjects, *pool.loaded())))
        asked = frozenset(subjects) if pending else frozenset[int]()
        calm = idle if pending else idle.union(subjects)
        models = tuple(
            self._model(m, pool, pending=int(m in asked), busy=m not in calm) for m in shown
        )
        bookings = []
        for m in shown:
            devices = pool.where(m)
            if devices:
                share = -(-self._trace.models[m].bytes // len(devices))
                bookings += [
                    Booking.model_construct(
                        model=self._names[m],
                        device=f"{NODE}/{d}",
                        bytes=share,
                        resident_bytes=share,
                        releasing=False,
                    )
                    for d in devices
                ]
        return Fleet.model_construct(
            at=self._clock.time(),
            revision=0,
            models=models,
            bookings=tuple(bookings),
            devices=tuple(
                Device.model_construct(
                    node=NODE,
                    uuid=str(d),
                    kind="gpu",
                    index=d,
                    name="",
                    total_bytes=capacity,
                    free_bytes=pool.free(d),
                    processes=(),
                    healthy=True,
                    detail="",
                )
                for d, capacity in enumerate(capacities)
            ),
            runtimes=(_RUNTIME,),
        )

    def _model(self, index: int, pool: Pool, *, pending: int, busy: bool = False) -> Model:
        devices = pool.where(index)
        key = (index, devices)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _model(
                self._names[index], self._trace.models[index], devices, pool.capacities()
            )
        shown = self._books[index].snapshot().get(known.name, _NONE)
        if pending or busy:
            shown = shown.model_copy(update={"pending": pending, "in_flight": int(busy)})
        return known.model_copy(update={"traffic": shown})


_NONE = Traffic()
_RUNTIME = RuntimeStatus(name=RUNTIME, enabled=True, healthy=True)


def _footprint(profile: ModelProfile, *, tensor_parallel: int = 1, **_given: object) -> Footprint:
    share = -(-profile.weight_bytes // tensor_parallel)
    return Footprint.model_construct(
        weights=share,
        kv=0,
        activation=0,
        graphs=0,
        non_torch=0,
        expected=share,
        reserve=share,
        sources={},
    )


def _model(
    name: str, model: ReplayModel, devices: tuple[int, ...], capacities: Sequence[int]
) -> Model:
    """Show ``model`` as registered long ago, its load time known from its last load."""
    loaded = bool(devices)
    degree = shares(model.bytes, capacities) or 1
    return Model(
        name=name,
        path="/",
        state=ModelState.READY if loaded else ModelState.UNLOADED,
        state_since=0.0,
        registered_at=0.0,
        priority=model.priority,
        profile=ModelProfile(
            format=ModelFormat.TRANSFORMERS,
            architecture="",
            task=Task.TEXT_GENERATION,
            weight_bytes=model.bytes,
            tensor_parallel_degrees=(degree,),
            runtimes=(RuntimeSupport(runtime=RUNTIME, supported=True),),
        ),
        deployment=Deployment(
            model=name,
            version=1,
            runtime=RUNTIME,
            devices=tuple(f"{NODE}/{d}" for d in devices),
            settings=LoadSettings(tensor_parallel_size=max(1, len(devices))),
            started_at=0.0,
            ready_at=0.0,
            load_s=model.load_s,
        ),
    )
