"""From the choices of an ingest to advice, and what is held against the plan that follows it."""

from __future__ import annotations

from typing import Any

import pytest

from agents.llm.ingest_choices import IngestChoices, ingest_choices
from modelium.models import (
    Candidate,
    Fleet,
    Load,
    LoadSettings,
    Plan,
    Preference,
    Priority,
    Queue,
    RuntimeName,
    RuntimeSupport,
    Trigger,
    Unload,
    Untrusted,
)
from modelium.models.advice import Advice
from modelium.policy import Policy, RuntimeRules
from modelium.ports import Question
from tests.agents.advising import INGEST, RULES, busy, newcomer, short_contexts
from tests.fakes.fleets import NOW, fleet, loaded, model, policy

R = RuntimeName
FULL = tuple(loaded(f"m{i}", f"n/g{i}", gib=71, traffic=busy()) for i in range(2))


def choices(known: Fleet, rules: Policy | None = None, name: str = "new") -> IngestChoices | None:
    given = rules or short_contexts()
    question = Question(trigger=Trigger.INGEST, model=name, now=NOW)
    plan = RULES.plan(INGEST, known, given)
    return ingest_choices(
        question=question, fleet=known, policy=given, rules=plan, planner=RULES.plan
    )


def found(known: Fleet, rules: Policy | None = None) -> IngestChoices:
    these = choices(known, rules)
    assert these is not None
    return these


def only(*names: RuntimeName, **given: Any) -> Any:
    """A newcomer that these runtimes can serve."""
    new = newcomer(**given)
    assert new.profile is not None
    runtimes = tuple(RuntimeSupport(runtime=n, supported=True) for n in names)
    return new.model_copy(update={"profile": new.profile.model_copy(update={"runtimes": runtimes})})


def wish(runtime: RuntimeName | None = None, **settings: Any) -> dict[str, Preference]:
    return {"new": Preference(runtime=runtime, settings=LoadSettings(**settings))}


# --- the form ------------------------------------------------------------------------------------


def test_each_choice_has_its_legal_values_and_what_the_rules_take() -> None:
    vllm = RuntimeRules(default_settings={"max_model_len": 2048, "max_num_seqs": 4})
    rules = policy(runtimes={R.VLLM: vllm, R.RAY_SERVE: RuntimeRules()})
    fields = {f.name: (f.allowed, f.default) for f in found(fleet(newcomer()), rules).fields}
    assert fields == {
        "runtime": (("vllm", "ray_serve"), "vllm"),
        "max_model_len": ((2048, 4096, 8192, 16384, 32768), None),
        "max_num_seqs": ((4, 8, 16, 32), None),
        "tensor_parallel_size": ((1, 2), None),
        "priority": (("high", "medium", "low"), "low"),
    }


def test_what_is_queued_is_asked_about_as_if_the_devices_were_empty() -> None:
    these = found(fleet(newcomer(), *FULL))
    assert these.facts()["rules_would"] == {"action": "queue"}
    fields = {f.name: (f.allowed, f.default) for f in these.fields}
    assert fields["runtime"] == (("vllm", "ray_serve"), "vllm")
    assert fields["max_model_len"] == ((2048, 4096, 8192, 16384, 32768), None)
    assert fields["dtype"] == (("float16", "auto"), None)
    swapped = found(fleet(only(R.RAY_SERVE, R.VLLM)))
    assert swapped.fields[0].allowed == ("ray_serve", "vllm")
    assert swapped.fields[0].default == swapped.facts()["rules_would"]["runtime"]


@pytest.mark.parametrize(
    ("own", "ceiling", "classes"),
    [
        ("low", "high", ("high", "medium", "low")),
        ("medium", "high", ("high", "medium")),
        ("high", "high", ("high",)),
        ("low", "medium", ("medium", "low")),
        ("high", "medium", ("medium",)),
        ("low", "low", ("low",)),
    ],
)
def test_classes_lie_between_the_models_own_and_its_ceiling(
    own: str, ceiling: str, classes: tuple[str, ...]
) -> None:
    new = newcomer(priority=Priority(own), priority_ceiling=Priority(ceiling))
    field = found(fleet(new)).fields[-1]
    assert (field.name, field.allowed, field.default) == ("priority", classes, classes[-1])


def test_the_facts_are_those_of_the_profile_and_of_each_runtime() -> None:
    new = newcomer(team="lab", priority_ceiling=Priority.MEDIUM)
    assert new.profile is not None
    files = new.profile.model_copy(
        update={
            "parameter_count": 7,
            "quantization": "awq`",
            "license": "mit",
            "weight_bytes": new.profile.weight_bytes // 3,
        }
    )
    assert found(fleet(new.model_copy(update={"profile": files}))).facts() == {
        "model": "new",
        "team": "lab",
        "owner_wishes": {},
        "format": "transformers",
        "architecture": "LlamaForCausalLM",
        "task": "text-generation",
        "parameters": 7,
        "weights_gib": 3.33,
        "context_of_the_model": 32768,
        "dtype_of_the_model": "bfloat16",
        "quantization": "awq",
        "licence": "mit",
        "rules_would": {
            "action": "load",
            "runtime": "vllm",
            "priority": "low",
            "dtype": "float16",
            "max_model_len": 2048,
            "tensor_parallel_size": 1,
        },
        "runtimes": [
            {
                "runtime": "vllm",
                "gib_per_device": 3.83,
                "devices": 1,
                "longest_context_that_fits": 32768,
            },
            {
                "runtime": "ray_serve",
                "gib_per_device": 11.33,
                "devices": 1,
                "longest_context_that_fits": None,
            },
        ],
        "highest_priority_allowed": "medium",
    }


def test_a_card_is_shown_where_it_says_something() -> None:
    assert "\nSummarises long reports.\n" in found(fleet(newcomer())).card()
    assert found(fleet(newcomer(" \n"))).card() == ""
    new = newcomer()
    assert new.profile is not None
    files = new.profile.model_copy(update={"card": None})
    assert found(fleet(new.model_copy(update={"profile": files}))).card() == ""
    assert Untrusted(text="x").text == "x"


def test_without_a_model_a_way_to_load_it_or_an_alternative_there_is_no_choice() -> None:
    assert choices(fleet(newcomer()), name="other") is None
    assert choices(fleet(model("new", profile=None))) is None
    new = newcomer()
    assert new.profile is not None
    code = new.profile.model_copy(update={"needs_remote_code": True})
    assert choices(fleet(new.model_copy(update={"profile": code}))) is None
    assert choices(fleet(newcomer(), runtimes=())) is None
    lone = only(R.RAY_SERVE, priority_ceiling=Priority.LOW)
    assert choices(fleet(lone)) is None
    assert choices(fleet(only(R.RAY_SERVE, priority_ceiling=Priority.MEDIUM))) is not None


# --- the advice ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "preferences"),
    [
        ({}, {}),
        ({"runtime": "vllm"}, {}),
        ({"runtime": "vllm", "max_model_len": 2048, "dtype": "float16"}, {}),
        ({"max_model_len": 2048}, {}),
        ({"max_model_len": 4096}, wish(max_model_len=4096)),
        ({"dtype": "auto", "tensor_parallel_size": 1}, wish(dtype="auto")),
        ({"runtime": "ray_serve"}, wish(R.RAY_SERVE)),
        (
            {"runtime": "ray_serve", "max_model_len": 4096, "dtype": "auto", "tensor_parallel_size": 2},
            wish(R.RAY_SERVE),
        ),
        (
            {"runtime": "vllm", "max_model_len": 2048, "max_num_seqs": 8, "tensor_parallel_size": 2},
            wish(R.VLLM, max_num_seqs=8, tensor_parallel_size=2),
        ),
        (
            {"runtime": "vllm", "max_model_len": 4096, "dtype": "auto"},
            wish(R.VLLM, max_model_len=4096, dtype="auto"),
        ),
    ],
)  # fmt: skip
def test_what_differs_from_the_rules_becomes_a_preference(
    chosen: dict[str, Any], preferences: dict[str, Preference]
) -> None:
    assert found(fleet(newcomer())).advice(chosen) == Advice(preferences=preferences)


@pytest.mark.parametrize(
    ("chosen", "preferences"),
    [
        ({"runtime": "vllm"}, wish(R.VLLM)),
        ({"runtime": "vllm", "max_model_len": 2048}, wish(R.VLLM, max_model_len=2048)),
        ({"max_model_len": 2048}, wish(max_model_len=2048)),
    ],
)
def test_what_is_queued_keeps_all_that_was_chosen(
    chosen: dict[str, Any], preferences: dict[str, Preference]
) -> None:
    these = found(fleet(newcomer(), *FULL))
    assert these.advice(chosen) == Advice(preferences=preferences)


def test_the_only_runtime_is_meant_where_none_is_named() -> None:
    vllm = found(fleet(only(R.VLLM)))
    assert vllm.advice({"max_model_len": 4096}).preferences == wish(R.VLLM, max_model_len=4096)
    ray = found(fleet(only(R.RAY_SERVE)))
    assert ray.advice({"max_model_len": 4096, "dtype": "auto"}).preferences == {}


def test_a_class_and_the_reason_are_passed_on() -> None:
    given = {"priority": "medium", "reason": "long"}
    assert found(fleet(newcomer())).advice(given) == Advice(
        priorities={"new": Priority.MEDIUM}, reason="long"
    )


# --- objections ----------------------------------------------------------------------------------


def load(devices: int = 1, length: int = 2048) -> Load:
    names = tuple(f"n/g{i}" for i in range(devices))
    settings = LoadSettings(max_model_len=length, tensor_parallel_size=devices)
    return Load(
        model="new", runtime=R.VLLM, devices=names, settings=settings, reserve={}, reason=""
    )


def plan(*actions: Any, lost: tuple[str, ...] = ()) -> Plan:
    candidates = tuple(Candidate(model="new", lost=text) for text in lost)
    return Plan(author="llm", trigger=Trigger.INGEST, actions=actions, candidates=candidates)


def out(name: str) -> Unload:
    return Unload(model=name, reason="")


LONG = wish(R.VLLM, max_model_len=4096)
DOES_NOT_FIT = "new: vllm, max_model_len 4096 does not fit now"


@pytest.mark.parametrize(
    ("preferences", "followed", "said"),
    [
        ({}, plan(load()), []),
        ({}, plan(Queue(model="new", reason="")), [("worse", "new: the rules load it now; with this choice it waits")]),
        ({}, plan(), [("worse", "new: the rules load it now; with this choice it waits")]),
        (
            {},
            plan(out("b"), out("a"), load()),
            [("worse", "new: a, b would be evicted for it; the rules would not")],
        ),
        ({}, plan(load(2)), [("worse", "new: it would take 2 devices; the rules take 1")]),
        (wish(tensor_parallel_size=2), plan(load(2)), []),
        (
            wish(tensor_parallel_size=3),
            plan(load(4)),
            [
                ("worse", "new: it would take 4 devices; the rules take 1"),
                ("does-not-fit", "new: any runtime, tensor_parallel_size 3 does not fit now (not possible)"),
            ],
        ),
        (LONG, plan(load(length=4096), lost=("", "full")), []),
        (LONG, plan(load(), lost=("", "full", "slow")), [("does-not-fit", f"{DOES_NOT_FIT} (full; slow)")]),
        (LONG, plan(load(), lost=("x" * 299, "slow")), [("does-not-fit", f"{DOES_NOT_FIT} ({'x' * 299};)")]),
        ({"other": LONG["new"]}, plan(load()), []),
    ],
)  # fmt: skip
def test_a_plan_that_is_worse_or_other_than_wished_is_objected_to(
    preferences: dict[str, Preference], followed: Plan, said: list[tuple[str, str]]
) -> None:
    these = found(fleet(newcomer()))
    violations = these.objections(Advice(preferences=preferences), followed)
    assert [(v.rule, v.message) for v in violations] == said
    assert {v.subject for v in violations} <= {"new"}


def test_where_the_rules_queue_it_only_evictions_and_wishes_are_held_against_a_plan() -> None:
    these = found(fleet(newcomer(), *FULL))
    assert these.objections(Advice(), plan(Queue(model="new", reason=""))) == []
    assert these.objections(Advice(), plan(load(2))) == []
    evicting = these.objections(Advice(), plan(out("m0"), load()))
    assert [v.message for v in evicting] == ["new: m0 would be evicted for it; the rules would not"]
    assert these.objections(Advice(preferences=LONG), plan(Queue(model="new", reason=""))) == []


def test_what_the_rules_evict_too_is_not_held_against_a_plan() -> None:
    idle = [loaded(f"m{i}", f"n/g{i}", gib=71, idle_s=9000) for i in range(2)]
    known = fleet(newcomer(), *idle)
    these = found(known)
    evicted = sorted(a.model for a in these.rules.actions if isinstance(a, Unload))
    assert len(evicted) == 1
    followed = plan(*map(out, evicted), load())
    assert these.objections(Advice(), followed) == []
