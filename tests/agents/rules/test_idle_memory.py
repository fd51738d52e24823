"""Idle memory for KV caches: lent where nobody needs it, within the policy's share."""

from __future__ import annotations

from typing import Any

import pytest

from agents.rules.planner import RulePlanner
from modelium.lifecycle import ModelState
from modelium.models import GIB, Fleet, Footprint, Load, LoadSettings, Plan, RuntimeName, Trigger
from modelium.policy import Policy, RuntimeRules, validate
from modelium.ports import Question
from tests.fakes.fleets import NOW, fleet, model, policy, profile

NEED = GIB


def estimate(known: Any, *, max_model_len: int | None = None, **_: Any) -> Footprint:
    """10 GiB of engine, 1 GiB of KV cache for a context of 4096 tokens."""
    kv = NEED * (max_model_len or 4096) // 4096
    return Footprint(
        weights=known.weight_bytes, kv=kv, kv_least=kv,
        expected=known.weight_bytes + kv, reserve=known.weight_bytes + kv,
    )  # fmt: skip


def ask(world: Fleet, by: Policy, about: str = "a") -> Plan:
    question = Question(trigger=Trigger.OPERATOR, model=about, now=NOW)
    plan = RulePlanner(estimate=estimate).plan(question, world, by)
    assert validate(plan, world, by, now=NOW) == []
    return plan


def load_of(plan: Plan, name: str = "a") -> Load:
    (found,) = [a for a in plan.actions if isinstance(a, Load) and a.model == name]
    return found


def test_a_model_on_an_idle_gpu_gets_its_share_of_what_is_free() -> None:
    by = policy(kv_cache_share=0.5)
    world = fleet(model("a", 10), gpus=1)
    (gpu,) = world.devices
    load = load_of(ask(world, by))
    idle = gpu.total_bytes * by.max_gpu_memory_utilization - 11 * GIB
    lent = load.settings.extra_kv_bytes
    assert lent == pytest.approx(0.5 * idle, abs=2**20)
    assert load.settings.kv_cache_bytes == NEED + lent
    assert load.reserve == {gpu.id: 11 * GIB + lent}
    assert "idle memory for its KV cache" in load.reason


def test_no_share_no_loan() -> None:
    load = load_of(ask(fleet(model("a", 10), gpus=1), policy(kv_cache_share=0.0)))
    assert (load.settings.kv_cache_bytes, load.settings.extra_kv_bytes) == (NEED, 0)


def test_what_other_registered_models_would_need_is_not_lent() -> None:
    others = [model(f"m{i}", 20) for i in range(3)]
    load = load_of(ask(fleet(model("a", 10), *others, gpus=1), policy()))
    assert load.settings.extra_kv_bytes == 0


def test_nothing_is_lent_while_a_model_is_not_analyzed_yet() -> None:
    fresh = model("new", profile=None, state=ModelState.INGESTED)
    load = load_of(ask(fleet(model("a", 10), fresh, gpus=1), policy()))
    assert load.settings.extra_kv_bytes == 0


def test_the_operators_pool_is_booked_and_kept() -> None:
    rules = {
        name: RuntimeRules(default_settings={"kv_cache_bytes": 5 * GIB})
        for name in policy().runtimes
    }
    load = load_of(ask(fleet(model("a", 10), gpus=1), policy(runtimes=rules)))
    assert load.settings.kv_cache_bytes == 5 * GIB
    assert load.settings.extra_kv_bytes == 5 * GIB - NEED
    assert set(load.reserve.values()) == {15 * GIB}


def test_a_pool_below_the_context_shortens_the_context() -> None:
    rules = {RuntimeName.VLLM: RuntimeRules(default_settings={"kv_cache_bytes": GIB // 2})}
    load = load_of(
        ask(
            fleet(model("a", profile=profile(10, kv_bytes_per_token=1)), gpus=1),
            policy(runtimes=rules),
        )
    )
    assert load.settings.kv_cache_bytes == GIB // 2
    assert load.settings.max_model_len == 2048
    assert "max_model_len 2048 instead of" in load.reason


def test_the_policy_refuses_a_pool_above_the_share() -> None:
    world = fleet(model("a", 10), gpus=1)
    plan = ask(world, policy(kv_cache_share=0.5))
    broken = validate(plan, world, policy(kv_cache_share=0.2), now=NOW)
    assert {violation.rule for violation in broken} == {"kv-share"}


def test_a_wider_pool_does_not_count_as_the_models_need() -> None:
    load = load_of(ask(fleet(model("a", 10), gpus=1), policy()))
    assert load.settings.extra_kv_bytes > 0
    assert LoadSettings().extra_kv_bytes == 0
