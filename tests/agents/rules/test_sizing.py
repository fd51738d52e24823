from __future__ import annotations

from typing import Any

import pytest

from agents.rules.planner import RulePlanner
from modelium import analysis
from modelium.models import (
    GIB,
    Device,
    Load,
    MeasuredLoad,
    ModelFormat,
    RuntimeName,
    RuntimeStatus,
    RuntimeSupport,
    Task,
    Trigger,
)
from modelium.policy import RuntimeRules
from modelium.ports import Question
from tests.agents.rules.asking import ask
from tests.fakes.fleets import NOW, fleet, model, policy, profile


def test_a_model_too_large_for_one_device_is_split() -> None:
    big = model("big", 100, profile=profile(100, tensor_parallel_degrees=(1, 2, 4)))
    (load,) = ask(fleet(big, gpus=4), Trigger.INGEST, "big").actions
    assert isinstance(load, Load)
    assert (len(load.devices), load.settings.tensor_parallel_size) == (2, 2)


def test_settings_are_reduced_before_it_queues_and_the_reason_says_so() -> None:
    long = profile(40, kv_bytes_per_token=1 << 20, context_length=131_072)
    (load,) = ask(fleet(model("a", 40, profile=long)), Trigger.INGEST, "a").actions
    assert isinstance(load, Load)
    assert load.settings.max_model_len == 32_768
    assert "max_model_len 32768" in load.reason


def test_default_settings_are_adapted_to_the_model() -> None:
    rules = RuntimeRules(
        default_settings={
            "dtype": "float16",
            "max_model_len": 9999,
            "max_batch_size": 32,
            "seed": 1,
        }
    )
    by = policy(runtimes={RuntimeName.VLLM: rules})
    (load,) = ask(fleet(model("a")), Trigger.INGEST, "a", by).actions
    assert isinstance(load, Load)
    got = load.settings
    assert (got.dtype, got.max_model_len, got.max_num_seqs, got.extra) == (
        "float16",
        4096,
        32,
        {"seed": 1},
    )


@pytest.mark.parametrize(
    ("given", "runtime"),
    [
        ({"format": ModelFormat.GGUF}, RuntimeName.LLAMA_CPP),
        ({"format": ModelFormat.ONNX, "task": Task.GENERIC}, RuntimeName.TRITON),
        ({"task": Task.EMBEDDING}, RuntimeName.RAY_SERVE),
        ({}, RuntimeName.VLLM),
    ],
)
def test_each_format_goes_to_its_native_runtime(
    given: dict[str, Any], runtime: RuntimeName
) -> None:
    able = tuple(RuntimeSupport(runtime=r, supported=True) for r in RuntimeName)
    world = fleet(
        model("a", profile=profile(4, runtimes=able, **given)),
        runtimes=tuple(RuntimeStatus(name=r, enabled=True, healthy=True) for r in RuntimeName),
    )
    by = policy(runtimes={r: RuntimeRules() for r in RuntimeName})
    (load,) = ask(world, Trigger.INGEST, "a", by).actions
    assert isinstance(load, Load)
    assert load.runtime is runtime


def test_a_cpu_is_a_device_like_any_other() -> None:
    cpu = Device(node="n", uuid="cpu", kind="cpu", total_bytes=32 * GIB, free_bytes=30 * GIB)
    (load,) = ask(fleet(model("a", 4), devices=(cpu,)), Trigger.INGEST, "a").actions
    assert isinstance(load, Load)
    assert load.devices == ("n/cpu",)


@pytest.mark.parametrize("kind", ["gpu", "cpu"])
def test_measured_memory_replaces_the_estimate(kind: str) -> None:
    device = Device(
        node="n", uuid="d", kind=kind, name="Some 1", total_bytes=64 * GIB, free_bytes=60 * GIB
    )
    bare = model("a", 4, profile=profile(4, context_length=512))
    world = fleet(bare, devices=(device,))
    planner = RulePlanner()
    question = Question(trigger=Trigger.DEMAND, model="a", now=NOW)
    (first,) = planner.plan(question, world, policy()).actions
    assert isinstance(first, Load)
    took = MeasuredLoad(
        runtime=first.runtime,
        device_kind="Some 1",
        settings_digest=analysis.settings_digest(first.settings),
        per_device_bytes=17 * GIB,
        load_s=9.0,
        at=NOW - 500,
    )
    learned = fleet(bare.model_copy(update={"measured": (took,)}), devices=(device,))
    (second,) = planner.plan(question, learned, policy()).actions
    assert isinstance(second, Load)
    assert first.reserve["n/d"] < 17 * GIB <= second.reserve["n/d"] < 20 * GIB
