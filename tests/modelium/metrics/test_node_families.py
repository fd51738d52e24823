"""Over several nodes each series is there once: at the node that answers for it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from modelium.metrics import Metrics
from modelium.models import Booking, Fleet, RuntimeName, RuntimeStatus
from tests.fakes.node_fleets import node
from tests.modelium.metrics.conftest import Labels, at, fleet, gpu, model, read

DEVICES = (gpu(0, node="a"), gpu(0, node="b"))


def over(*nodes: Any) -> Fleet:
    on_a, on_b = DEVICES
    models = (model("one", on_a), model("two", on_b), model("both", on_b, on_a), model("idle"))
    return fleet(
        *models,
        devices=DEVICES,
        nodes=nodes,
        bookings=tuple(
            Booking(model=m.name, device=d, bytes=5, resident_bytes=5)
            for m in models
            if m.deployment
            for d in m.deployment.devices
        ),
        runtimes=tuple(
            RuntimeStatus(name=RuntimeName.VLLM, node=n.name, enabled=True, healthy=True)
            for n in nodes
        ),
    )


def at_nodes(seen: Fleet, *names: str) -> dict[str, dict[str, dict[Labels, float]]]:
    found = {}
    for name in names:
        metrics = Metrics()
        metrics.node = name
        metrics.observe(seen)
        found[name] = read(metrics)
    return found


NODES = (node("a", plans=True), node("b", state="cordoned", silent_s=42.0))


def test_each_gauge_of_the_fleet_is_shown_by_one_node() -> None:
    seen = at_nodes(over(*NODES), "a", "b")
    gauges = [
        (name, labels)
        for series in seen.values()
        for name in series
        if name.startswith(("modelium_model_", "modelium_gpu_", "modelium_models", "modelium_node"))
        for labels in series[name]
        if not name.startswith("modelium_model_restarts")
    ]
    assert {pair: n for pair, n in Counter(gauges).items() if n > 1} == {}
    states = "modelium_model_state"
    assert set(seen["a"][states]) == {
        at(model="one", state="ready"),
        at(model="idle", state="unloaded"),
    }
    assert set(seen["b"][states]) == {
        at(model="two", state="ready"),
        at(model="both", state="ready"),
    }
    assert set(seen["b"]["modelium_gpu_memory_used"]) == {at(gpu="b/0")}
    assert seen["a"]["modelium_gpu_memory_booked_bytes"][at(gpu="a/0")] == 10, "its part of both"
    assert seen["b"]["modelium_model_memory_booked_bytes"][at(model="both")] == 10
    assert at(model="both") not in seen["a"]["modelium_model_memory_booked_bytes"]
    for name in ("a", "b"):
        assert seen[name]["modelium_runtime_up"] == {at(runtime="vllm"): 1}


def test_the_node_that_plans_shows_all_nodes() -> None:
    seen = at_nodes(over(*NODES), "a", "b")
    assert seen["a"]["modelium_node_up"] == {at(node="a"): 1, at(node="b"): 0}
    assert seen["a"]["modelium_node_heartbeat_age_seconds"][at(node="b")] == 42
    assert seen["a"]["modelium_node_state"][at(node="b", state="cordoned")] == 1
    assert seen["a"]["modelium_node_state"][at(node="b", state="active")] == 0
    assert seen["a"]["modelium_models"][at(state="ready")] == 3
    for name in ("modelium_node_up", "modelium_models", "modelium_queue_length"):
        assert name not in seen["b"]
    assert seen["a"]["modelium_node_planner"] == {at(node="a"): 1}
    assert seen["b"]["modelium_node_planner"] == {at(node="b"): 0}


def test_one_machine_shows_everything_and_no_nodes() -> None:
    (seen,) = at_nodes(
        fleet(model("one", DEVICES[0]), model("idle"), devices=DEVICES[:1]), ""
    ).values()
    assert len(seen["modelium_model_state"]) == 2
    assert "modelium_models" in seen
    assert "modelium_node_up" not in seen
