"""An owner's wish orders the runtimes and shortens the context; it never costs anybody anything."""

from __future__ import annotations

from typing import Any

import pytest

from agents.rules.planner import RulePlanner
from modelium.models import (
    GIB,
    Footprint,
    KVLayout,
    Load,
    Model,
    ModelProfile,
    RuntimeName,
    RuntimeStatus,
    Setbacks,
    Trigger,
    Wishes,
)
from modelium.policy import Policy, RuntimeRules
from modelium.ports import Question
from tests.agents.rules.asking import ask, shape
from tests.agents.rules.test_load_options import options
from tests.fakes.fleets import NOW, estimate, fleet, loaded, model, policy, profile

V, S = RuntimeName.VLLM, RuntimeName.RAY_SERVE


def wishing(of: Model | None = None, **wishes: Any) -> Model:
    return (of or model("m")).model_copy(update={"wishes": Wishes(**wishes)})


def load(subject: Model, by: Policy | None = None, **world: Any) -> Load:
    (found,) = ask(fleet(subject, **world), Trigger.DEMAND, "m", by).loads
    return found


def test_the_wished_runtime_is_tried_first() -> None:
    assert load(model("m")).runtime is V
    assert load(wishing(runtime=S)).runtime is S
    assert load(wishing(runtime=V)).runtime is V
    assert load(wishing(runtime=RuntimeName.TRITON)).runtime is V
    assert load(wishing(context=9)).runtime is V


@pytest.mark.parametrize(
    "status",
    [
        RuntimeStatus(name=S, enabled=False, healthy=True),
        RuntimeStatus(name=S, enabled=True, healthy=False),
    ],
)
def test_a_runtime_that_cannot_be_used_is_wished_in_vain(status: RuntimeStatus) -> None:
    others = (RuntimeStatus(name=V, enabled=True, healthy=True), status)
    assert load(wishing(runtime=S), runtimes=others).runtime is V


def test_a_runtime_that_failed_the_model_is_wished_in_vain() -> None:
    failing = model("m", setbacks=Setbacks(runtimes={S: 2}))
    assert load(wishing(failing, runtime=S)).runtime is V
    once = model("m", setbacks=Setbacks(runtimes={V: 2}))
    assert load(wishing(once, runtime=V)).runtime is S


def test_a_wish_evicts_nothing_that_the_rules_would_spare() -> None:
    def larger_in_ray(files: ModelProfile, *, runtime: RuntimeName, **given: Any) -> Footprint:
        found = estimate(files, **given)
        return found.model_copy(update={"reserve": found.reserve * (4 if runtime is S else 1)})

    world = fleet(loaded("other", "n/g0", gib=50), wishing(runtime=S), gpus=1)
    question = Question(trigger=Trigger.DEMAND, model="m", now=NOW)
    plan = RulePlanner(estimate=larger_in_ray).plan(question, world, policy())
    assert shape(plan) == [("load", "m")]
    assert plan.loads[0].runtime is V


def contexts(subject: Model, by: Policy | None = None) -> dict[RuntimeName, int | None]:
    return {o.runtime: o.settings.max_model_len for o in options(subject, fleet(gpus=1), by)}


def test_a_wish_shortens_the_context_where_the_runtime_has_one() -> None:
    assert contexts(model("m")) == {V: None, S: None}
    assert contexts(wishing(context=2048)) == {V: 2048, S: None}
    assert contexts(wishing(context=4096)) == {V: None, S: None}
    assert contexts(wishing(context=9999)) == {V: None, S: None}
    assert contexts(wishing(context=1)) == {V: 1024, S: None}


def test_the_operators_context_is_the_longest() -> None:
    rules = {"default_settings": {"max_model_len": 2000}}
    by = policy(runtimes={V: RuntimeRules(**rules), S: RuntimeRules(**rules)})
    assert contexts(wishing(context=3000), by) == {V: 2000, S: 2000}
    assert contexts(wishing(context=1500), by) == {V: 1500, S: 2000}


def test_a_context_that_the_operator_sets_for_the_model_stays() -> None:
    by = policy(model_settings={"m": {"max_model_len": 3000}})
    assert contexts(wishing(context=2048), by) == {V: 3000, S: 3000}
    other = policy(model_settings={"m": {"max_num_seqs": 8}, "x": {"max_model_len": 3000}})
    assert contexts(wishing(context=2048), other)[V] == 2048


def test_a_shorter_context_takes_less_memory_and_can_shrink_further() -> None:
    files = profile(10, kv_bytes_per_token=GIB // 1024, kv=KVLayout())
    subject = model("m", profile=files)
    assert sum(load(subject).reserve.values()) == 14 * GIB
    short = wishing(subject, context=2048)
    assert sum(load(short).reserve.values()) == 12 * GIB
    tight = load(short, gpus=1, gib=11.2 / 0.9)
    assert tight.settings.max_model_len == 1024
    assert "max_model_len 1024 instead of 2048" in tight.reason
