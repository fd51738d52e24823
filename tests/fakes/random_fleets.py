"""Hypothesis strategies for possible fleets and policies, and for valid or invalid plans."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    Fleet,
    Keep,
    Load,
    LoadSettings,
    Model,
    ModelProfile,
    Node,
    NodeReport,
    Plan,
    Priority,
    Queue,
    Reject,
    RuntimeName,
    RuntimeStatus,
    RuntimeSupport,
    Traffic,
    Trigger,
    Unload,
)
from modelium.policy import Policy, RuntimeRules, TeamRules
from tests.fakes.fleets import NOW, fleet, loaded, model, policy, profile

S = ModelState
PRIORITIES = st.sampled_from(list(Priority))
HOLDING = (S.READY, S.READY, S.READY, S.LOADING, S.DRAINING, S.UNLOADING, S.SLEEPING)
SETTLED = (S.INGESTED, S.ANALYZED, S.QUEUED, S.UNLOADED, S.FAILED)


@st.composite
def profiles(draw: st.DrawFn, gib: float) -> ModelProfile:
    vllm, ray = draw(st.sampled_from([(True, True), (True, False), (False, True), (False, False)]))
    return profile(
        gib,
        context_length=draw(st.sampled_from([1024, 8192, None])),
        kv_bytes_per_token=draw(st.sampled_from([None, 1 << 20])),
        tensor_parallel_degrees=draw(st.sampled_from([(1,), (1, 2), (1, 2, 4)])),
        needs_remote_code=draw(st.integers(0, 9)) == 0,
        runtimes=(
            RuntimeSupport(runtime=RuntimeName.VLLM, supported=vllm),
            RuntimeSupport(runtime=RuntimeName.RAY_SERVE, supported=ray),
        ),
    )


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    gpus = draw(st.integers(1, 4))
    free = [72.0] * gpus
    models: list[Model] = []
    for i in range(draw(st.integers(1, 8))):
        gib = draw(st.sampled_from([1.0, 8.0, 20.0, 35.0, 60.0, 90.0]))
        common: dict[str, Any] = {
            "pinned": draw(st.integers(0, 4)) == 0,
            "priority": draw(PRIORITIES),
            "priority_ceiling": draw(PRIORITIES),
            "team": draw(st.sampled_from([None, "prod", "lab"])),
            "profile": draw(profiles(gib)),
            "retry_at": draw(st.sampled_from([None, None, NOW - 5, NOW + 50])),
            "evicted_at": draw(st.sampled_from([None, NOW - 5, NOW - 500])),
            "traffic": Traffic(
                in_flight=draw(st.sampled_from([0, 0, 0, 2])),
                pending=draw(st.sampled_from([0, 0, 0, 3])),
                qps_last_hour=draw(st.sampled_from([0.0, 1.0])),
                first_request_at=NOW - 9000,
                last_request_at=NOW - draw(st.sampled_from([1, 100, 4000])),
                rates=(0.1, 0.1, draw(st.floats(0, 5)), 0.01),
                intervals=tuple(draw(st.lists(st.integers(0, 9), min_size=16, max_size=16))),
            ),
        }
        start = draw(st.integers(0, gpus - 1))
        width = draw(st.sampled_from([1, 1, 2])) if gpus > 1 else 1
        where = [(start + j) % gpus for j in range(width)]
        state = draw(st.sampled_from(HOLDING + SETTLED))
        if state in HOLDING and all(free[d] >= gib / width for d in where):
            if state is not S.SLEEPING:
                for d in where:
                    free[d] -= gib / width
            one = loaded(
                f"m{i}",
                *[f"n/g{d}" for d in where],
                gib=gib,
                state=state,
                state_since=NOW - draw(st.sampled_from([10, 5000])),
                **common,
            )
            held = one.deployment
            assert held is not None
            ready = draw(st.sampled_from([NOW - 10, NOW - 5000]))
            models.append(
                one.model_copy(update={"deployment": held.model_copy(update={"ready_at": ready})})
            )
        else:
            state = draw(st.sampled_from(SETTLED))
            if state is S.INGESTED:
                common["profile"] = None
            models.append(model(f"m{i}", gib, state=state, queued_at=NOW - 40, **common))
    foreign = draw(st.sampled_from([0.0, 0.0, 7.0, 20.0]))
    sleepy = draw(st.booleans())
    return fleet(
        *models,
        gpus=gpus,
        foreign_gib=foreign,
        used=draw(st.sampled_from([{}, {"lab": 1e4}, {"lab": 10.0, "prod": 1e5, "": 5.0}])),
        runtimes=tuple(
            RuntimeStatus(
                name=name,
                enabled=draw(st.integers(0, 7)) > 0,
                healthy=draw(st.integers(0, 7)) > 0,
                can_sleep=sleepy,
            )
            for name in (RuntimeName.VLLM, RuntimeName.RAY_SERVE)
        ),
    )


NODES = ("a", "b", "c")


@st.composite
def fleets_over_nodes(draw: st.DrawFn) -> Fleet:
    """One of `fleets` on each of two or three nodes, of which some take no models."""
    names = NODES[: draw(st.integers(2, 3))]
    parts = [_on_node(draw(fleets()), name, draw) for name in names]
    models = tuple(m for part in parts for m in part.models)
    some = st.frozensets(st.sampled_from(names))
    return parts[0].model_copy(
        update={
            "models": models,
            "devices": tuple(d for part in parts for d in part.devices),
            "bookings": tuple(b for part in parts for b in part.bookings),
            "runtimes": tuple(r for part in parts for r in part.runtimes),
            "nodes": tuple(n for part in parts for n in part.nodes),
            "files": {m.name: draw(some) for m in models if draw(st.booleans())},
        }
    )


def _on_node(one: Fleet, node: str, draw: st.DrawFn) -> Fleet:
    def moved(device: str) -> str:
        return f"{node}/{device.partition('/')[2]}"

    def named(name: str) -> str:
        return name if node == NODES[0] else f"{node}-{name}"

    models = []
    for each in one.models:
        held = each.deployment
        if held is not None:
            own = {"model": named(held.model), "devices": tuple(map(moved, held.devices))}
            held = held.model_copy(update=own)
        models.append(each.model_copy(update={"name": named(each.name), "deployment": held}))
    told = Node(
        name=node,
        state=draw(st.sampled_from(["active", "active", "active", "cordoned", "draining"])),
        silent_s=draw(st.sampled_from([0.0, 0.0, 0.0, 42.0])),
        strays=draw(st.sampled_from([0, 0, 0, 1])),
        report=NodeReport(
            address=draw(st.sampled_from(["http://h:1", "http://h:1", None])),
            labels=draw(st.sampled_from([{}, {"zone": "x"}])),
            fetches=draw(st.booleans()),
            settled=draw(st.integers(0, 7)) > 0,
        ),
    )
    devices = (d.model_copy(update={"node": node}) for d in one.devices)
    spans = draw(st.integers(0, 3)) > 0
    there = {"node": node, "spans_nodes": spans}
    runtimes = (r.model_copy(update=there) for r in one.runtimes)
    return one.model_copy(
        update={
            "models": tuple(models),
            "devices": tuple(d.lost("silent") if told.silent else d for d in devices),
            "bookings": tuple(
                b.model_copy(update={"model": named(b.model), "device": moved(b.device)})
                for b in one.bookings
            ),
            "runtimes": () if told.silent else tuple(runtimes),
            "nodes": (told,),
        }
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    return policy(
        enabled=draw(st.integers(0, 9)) > 0,
        enable_model_swapping=draw(st.booleans()),
        always_loaded=draw(st.frozensets(st.sampled_from(["m0", "m1", "m5"]), max_size=2)),
        high_priority_teams=frozenset({"prod"}),
        teams=draw(
            st.dictionaries(
                st.sampled_from(["prod", "lab"]),
                st.builds(
                    TeamRules,
                    memory_bytes=st.sampled_from([None, GIB, 30 * GIB, 70 * GIB]),
                    gpu_seconds_per_day=st.sampled_from([None, 5000.0]),
                    weight=st.sampled_from([1.0, 4.0]),
                ),
            )
        ),
        placement=draw(st.sampled_from(["pack", "spread"])),
        model_nodes=draw(
            st.dictionaries(
                st.sampled_from(["m0", "m1", "b-m0"]),
                st.sampled_from([("a",), ("zone=x",), ("zone=x", "b"), ("nowhere",)]),
                max_size=2,
            )
        ),
        auto_unload_after_s=draw(st.sampled_from([30.0, 3600.0])),
        pending_requests_threshold=draw(st.sampled_from([0, 2])),
        max_gpu_memory_utilization=draw(st.sampled_from([0.9, 0.7])),
        runtimes={
            RuntimeName.VLLM: RuntimeRules(
                default_settings=draw(
                    st.sampled_from(
                        [{}, {"dtype": "float16", "max_model_len": 2048, "max_batch_size": 32}]
                    )
                )
            ),
            RuntimeName.RAY_SERVE: RuntimeRules(),
        },
    )


@st.composite
def plans(draw: st.DrawFn, of: Fleet) -> Plan:
    names = st.sampled_from([m.name for m in of.models] + ["ghost"])
    devices = st.sampled_from([d.id for d in of.devices] + ["n/none"])
    actions: list[Load | Unload | Keep | Queue | Reject] = []
    for _ in range(draw(st.integers(1, 6))):
        name = draw(names)
        kind = draw(
            st.sampled_from(["load", "load", "unload", "unload", "queue", "keep", "reject"])
        )
        if kind == "load":
            chosen = tuple(draw(st.lists(devices, min_size=1, max_size=2)))
            known = of.models_by_name.get(name)
            size = known.profile.weight_bytes if known and known.profile else GIB
            actions.append(
                Load(
                    model=name,
                    runtime=draw(st.sampled_from([RuntimeName.VLLM, RuntimeName.RAY_SERVE])),
                    devices=chosen,
                    settings=LoadSettings(
                        tensor_parallel_size=draw(st.sampled_from([len(chosen), 1])),
                        max_model_len=draw(st.sampled_from([None, 512, 10**6])),
                    ),
                    reserve=dict.fromkeys(
                        chosen, draw(st.sampled_from([size, size, 1, 10 * size]))
                    ),
                    priority=draw(PRIORITIES),
                    reason="r",
                )
            )
        elif kind == "unload":
            actions.append(Unload(model=name, sleep=draw(st.booleans()), reason="r"))
        elif kind == "queue":
            actions.append(Queue(model=name, priority=draw(PRIORITIES), reason="r"))
        elif kind == "keep":
            actions.append(Keep(model=name, reason="r"))
        else:
            actions.append(Reject(model=name, reason="r"))
    return Plan(
        author="llm",
        trigger=draw(st.sampled_from(list(Trigger))),
        subject=draw(st.sampled_from([None, actions[0].model])),
        actions=tuple(actions),
    )
