"""Measures the speed and packing of the rule planner: ``python -m bench.planner``.

Timing: 1,000 models on 64 full devices; one decision (a request for a model that is not loaded)
and one full re-plan (a sweep). Packing: models are placed until the first does not fit; the result
is the share of memory in use by then, compared with first fit and worst fit (the emptiest device).
The last lines are the goals.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from typing import Any

from agents.replay.planner_under_replay import unrestricted_policy
from agents.replay.result import percentile
from agents.rules.device_groups import device_groups
from agents.rules.device_memory import DeviceMemory
from agents.rules.keep_value import keep_value
from agents.rules.placement import Placer
from agents.rules.planner import RulePlanner
from agents.rules.sizing import LoadOption
from bench.goals import Goal, print_goals
from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    Booking,
    Deployment,
    Device,
    Fleet,
    Footprint,
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
)
from modelium.policy import Policy, RuntimeRules
from modelium.ports import Question

NOW = 1_800_000_000.0
MODELS, DEVICES, LOADED = 1000, 64, 700
RUNTIMES = (RuntimeStatus(name=RuntimeName.VLLM, enabled=True, healthy=True),)


def footprint(profile: ModelProfile, *, tensor_parallel: int = 1, **_: Any) -> Footprint:
    """Return the weights alone, so that the planner is timed and not the estimator."""
    share = profile.weight_bytes // tensor_parallel
    return Footprint(weights=share, expected=share, reserve=share)


def device(index: int, free: float, total: float = 80.0) -> Device:
    """Return one GPU with ``free`` of ``total`` GiB free."""
    return Device(
        node=f"n{index // 8}",
        uuid=f"g{index}",
        kind="gpu",
        index=index,
        name="H100",
        total_bytes=int(total * GIB),
        free_bytes=int(free * GIB),
    )


def crowded(rng: random.Random) -> Fleet:
    """Return 1,000 models: some on 64 full GPUs, a tenth of those busy, the rest queued."""
    free = [72.0] * DEVICES
    models: list[Model] = []
    bookings: list[Booking] = []
    for i in range(MODELS):
        gib = rng.uniform(2, 12)
        where = max(range(DEVICES), key=free.__getitem__)
        loaded = i < LOADED and free[where] >= gib
        if loaded:
            free[where] -= gib
        name, size = f"m{i}", int(gib * GIB)
        uuid = f"n{where // 8}/g{where}"
        models.append(
            Model(
                name=name,
                path="/",
                state=ModelState.READY if loaded else ModelState.QUEUED,
                state_since=NOW - 9000,
                registered_at=NOW - 9000,
                profile=ModelProfile(
                    format=ModelFormat.TRANSFORMERS,
                    architecture="LlamaForCausalLM",
                    task=Task.TEXT_GENERATION,
                    weight_bytes=size,
                    runtimes=(RuntimeSupport(runtime=RuntimeName.VLLM, supported=True),),
                ),
                deployment=Deployment(
                    model=name,
                    version=1,
                    runtime=RuntimeName.VLLM,
                    devices=(uuid,),
                    settings=LoadSettings(),
                    started_at=NOW - 9000,
                    ready_at=NOW - 8000,
                    load_s=20,
                )
                if loaded
                else None,
                traffic=Traffic(
                    in_flight=int(loaded and rng.random() < 0.1),
                    first_request_at=NOW - 8000,
                    last_request_at=NOW - rng.expovariate(1 / 600),
                    rates=tuple(rng.random() / 10 for _ in range(4)),
                    intervals=tuple(rng.randrange(20) for _ in range(16)),
                ),
            )
        )
        if loaded:
            bookings.append(Booking(model=name, device=uuid, bytes=size, resident_bytes=size))
    return Fleet(
        at=NOW,
        revision=1,
        models=tuple(models),
        bookings=tuple(bookings),
        devices=tuple(device(i, free[i] + 8) for i in range(DEVICES)),
        runtimes=RUNTIMES,
    )


def timing(decisions: int = 300) -> dict[str, float]:
    """Return CPU seconds of one decision and of one full re-plan, without cached look-ups."""
    planner = RulePlanner(estimate=footprint)
    policy = Policy(runtimes={RuntimeName.VLLM: RuntimeRules()})
    rng = random.Random(1)
    fleet = crowded(rng)
    absent = [m.name for m in fleet.models if m.state is ModelState.QUEUED]

    def ask(trigger: Trigger, name: str | None) -> float:
        fresh = Fleet.model_construct(**dict(fleet))
        begin = time.process_time()
        planner.plan(Question(trigger=trigger, model=name, now=NOW), fresh, policy)
        return time.process_time() - begin

    one = sorted(ask(Trigger.DEMAND, rng.choice(absent)) for _ in range(decisions))
    whole = sorted(ask(Trigger.SWEEP, None) for _ in range(10))
    return {
        "decision_p50_s": statistics.median(one),
        "decision_p99_s": percentile(one, 0.99),
        "replan_max_s": whole[-1],
    }


def packing(rounds: int = 60) -> dict[str, float]:
    """Return the mean share of memory in use when the first model does not fit, by heuristic."""
    policy = unrestricted_policy()
    shares: dict[str, list[float]] = {"planner": [], "worst-fit": [], "first-fit": []}
    for seed in range(rounds):
        rng = random.Random(seed)
        kinds = [rng.choice([4, 7, 9, 16, 22, 31, 40, 60]) for _ in range(5)]
        sizes = [rng.choice(kinds) * GIB for _ in range(400)]
        for heuristic, found in shares.items():
            found.append(_fill(heuristic, sizes, policy))
    return {name: statistics.mean(found) for name, found in shares.items()}


def _fill(heuristic: str, sizes: list[int], policy: Policy) -> float:
    rooms = {f"n{i // 8}/g{i}": 80 * GIB for i in range(16)}
    held: list[Booking] = []
    total = sum(rooms.values())
    for n, size in enumerate(sizes):
        chosen: str | None
        if heuristic == "planner":
            fleet = Fleet.model_construct(
                at=NOW,
                revision=0,
                models=(),
                bookings=tuple(held),
                runtimes=RUNTIMES,
                devices=tuple(device(i, r / GIB) for i, r in enumerate(rooms.values())),
            )
            memory = DeviceMemory(
                fleet=fleet, policy=policy, now=NOW, value=lambda m: keep_value(m, now=NOW)
            )
            placer = Placer(memory=memory)
            places = [
                placer.in_free_memory(
                    LoadOption(
                        runtime=RuntimeName.VLLM,
                        group=group,
                        settings=LoadSettings(),
                        reserve=size,
                    )
                )
                for group in device_groups(fleet.devices)
            ]
            best = min((p for p in places if p), key=lambda p: p.left, default=None)
            chosen = best.devices[0] if best else None
        else:
            able = [d for d, room in rooms.items() if room >= size]
            order = list(rooms).index
            by = order if heuristic == "first-fit" else lambda d: -rooms[d]
            chosen = min(able, key=by, default=None)
        if chosen is None:
            break
        rooms[chosen] -= size
        held.append(
            Booking.model_construct(
                model=f"m{n}", device=chosen, bytes=size, resident_bytes=size, releasing=False
            )
        )
    return 1 - sum(rooms.values()) / total


if __name__ == "__main__":
    timed = timing()
    json.dump({"timing": timed, "packing": packing()}, sys.stdout, indent=2)
    print()
    decision_ms, replan_ms = timed["decision_p99_s"] * 1000, timed["replan_max_s"] * 1000
    print_goals(
        Goal(name="decision-p99", measured=decision_ms, relation="≤", required=5, unit="ms"),
        Goal(name="replan-max", measured=replan_ms, relation="≤", required=500, unit="ms"),
    )
