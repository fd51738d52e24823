"""Which models a review is asked about, what is said of them, and what is held against a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agents.llm.review_choices import PREWARMS, SHOWN, ReviewChoices, review_choices
from modelium.lifecycle import ModelState
from modelium.models import (
    Fleet,
    Load,
    Model,
    Plan,
    Priority,
    RuntimeName,
    Traffic,
    Trigger,
    Unload,
    Untrusted,
)
from modelium.models.advice import RULES_ALONE, Advice
from modelium.policy import Policy
from modelium.ports import Question
from modelium.traffic.tally import INTERVAL_BOUNDS_S
from tests.agents.advising import REVIEW, waiting
from tests.fakes.fleets import NOW, fleet, loaded, model, policy, profile

Decides = Callable[[Advice], bool]


def load(name: str) -> Load:
    return Load(model=name, runtime=RuntimeName.VLLM, devices=("n/g0",), reserve={}, reason="")


def unload(name: str) -> Unload:
    return Unload(model=name, reason="")


def plan(*actions: Any) -> Plan:
    return Plan(author="rules", trigger=Trigger.REVIEW, actions=actions)


def choices(
    known: Fleet,
    *actions: Any,
    rules: Policy | None = None,
    loads: Decides = lambda advice: True,
    question: Question = REVIEW,
    tried: list[str] | None = None,
) -> ReviewChoices | None:
    """The rules' plan has ``actions``; a trial loads what ``loads`` says."""

    def planner(
        question: object, fleet: object, policy: object, advice: Advice = RULES_ALONE
    ) -> Plan:
        if tried is not None:
            tried.extend(advice.prewarm)
        return plan(*map(load, advice.prewarm)) if loads(advice) else plan()

    return review_choices(
        question=question,
        fleet=known,
        policy=rules or policy(),
        rules=plan(*actions),
        planner=planner,
    )


def lists(found: ReviewChoices | None) -> dict[str, tuple[Any, ...]]:
    assert found is not None
    assert all(field.many for field in found.fields)
    return {field.name: field.allowed for field in found.fields}


def cold(name: str, gib: float = 10, **given: Any) -> Model:
    return model(name, gib, state=ModelState.UNLOADED, **given)


def regular(gap_s: float, idle_s: float) -> Traffic:
    """Requests that came every ``gap_s`` seconds, the last one ``idle_s`` ago."""
    counts = [0] * (len(INTERVAL_BOUNDS_S) + 1)
    bucket = next(i for i, bound in enumerate(INTERVAL_BOUNDS_S) if gap_s <= bound)
    counts[bucket] = 100
    return Traffic(intervals=tuple(counts), last_request_at=NOW - idle_s)


def test_one_of_a_kind_is_no_choice() -> None:
    assert choices(fleet(waiting("a", 10), loaded("b", "n/g0"))) is None
    assert choices(fleet(loaded("a", "n/g0"), loaded("b", "n/g1"))) is None
    assert choices(fleet()) is None


def test_queued_models_are_shown_in_the_rules_order() -> None:
    known = fleet(
        waiting("late", 10, queued_at=NOW - 10),
        waiting("old", 10, queued_at=NOW - 20),
        waiting("vip", 10, queued_at=NOW - 5, priority=Priority.HIGH),
        waiting("young", 10, queued_at=NOW - 1),
        model("unread", state=ModelState.QUEUED, profile=None),
    )
    assert lists(choices(known)) == {"order": ("vip", "old", "late", "young")}


def test_idle_models_are_a_choice_where_room_is_wanted() -> None:
    one, two = loaded("one", "n/g0", idle_s=100), loaded("two", "n/g1", idle_s=900)
    busy = loaded("busy", "n/g0", traffic=Traffic(in_flight=1))
    pinned = loaded("pinned", "n/g0", pinned=True)
    out = loaded("out", "n/g0", idle_s=9000)
    known = (one, two, busy, pinned, out)
    both = {"keep": ("two", "one"), "evict": ("two", "one")}
    assert lists(choices(fleet(*known, waiting("w", 70)))) == both
    assert lists(choices(fleet(*known, foreign_gib=50))) == both
    assert choices(fleet(*known)) is None
    assert choices(fleet(one, waiting("w", 70))) is None


def test_lists_have_the_first_twelve() -> None:
    queued = [waiting(f"q{i:02}", 1, queued_at=NOW - 100 + i) for i in range(14)]
    idle = [loaded(f"i{i:02}", "n/g0", gib=1, idle_s=1000 - i) for i in range(14)]
    found = choices(fleet(*reversed(queued), *reversed(idle)), *map(load, map(str, range(14))))
    assert lists(found) == {
        "order": tuple(f"q{i:02}" for i in range(12)),
        "keep": tuple(f"i{i:02}" for i in range(12)),
        "evict": tuple(f"i{i:02}" for i in range(12)),
    }
    assert found is not None
    assert [field.most for field in found.fields] == [SHOWN] * 3
    assert found.facts()["rules_would"] == [f"load {i}" for i in range(12)]


def test_unloaded_models_that_the_planner_would_prewarm_are_shown_soonest_first() -> None:
    tried: list[str] = []
    known = fleet(
        cold("never"),
        cold("soon", traffic=regular(1500, 1000)),
        cold("sooner", traffic=regular(900, 890)),
        cold("refused"),
        cold("settled"),
        cold("huge", 145),
        cold("half", 143),
        cold("unread", profile=None),
        waiting("queued", 10),
        gpus=1,
    )
    found = choices(
        known, load("settled"), loads=lambda advice: advice.prewarm != ("refused",), tried=tried
    )
    assert lists(found) == {"prewarm": ("sooner", "soon", "never", "half")}
    assert found is not None and found.fields[0].most == PREWARMS
    assert tried == ["sooner", "soon", "never", "refused", "half"]


def test_few_trials_are_made() -> None:
    tried: list[str] = []
    choices(fleet(*[cold(f"m{i}") for i in range(20)]), tried=tried)
    assert tried == [f"m{i}" for i in range(SHOWN)]
    none: list[str] = []
    assert choices(fleet(cold("m"), gpus=0), tried=none) is None
    assert none == []


def test_a_model_that_can_be_split_needs_less_of_one_device() -> None:
    def split(gib: float) -> Model:
        return cold("m", profile=profile(gib, tensor_parallel_degrees=(1, 2)))

    assert choices(fleet(split(287), gpus=1)) is not None
    assert choices(fleet(split(289), gpus=1)) is None


def test_the_question_says_what_time_it_is() -> None:
    known = fleet(cold("m"))
    later = Question(trigger=Trigger.REVIEW, now=NOW + 3660)
    for question, said in (
        (REVIEW, "Friday 08:00 UTC"),
        (later, "Friday 09:01 UTC"),
        (Question(trigger=Trigger.REVIEW), "Friday 08:00 UTC"),
    ):
        found = choices(known, question=question)
        assert found is not None
        assert found.facts()["now"] == said


def test_each_model_is_shown_with_what_is_known_of_it() -> None:
    traffic = Traffic(
        completed=7,
        qps_last_hour=0.01,
        first_request_at=NOW - 5000,
        last_request_at=NOW - 1000.6,
        intervals=regular(1500, 0).intervals,
    )
    known = fleet(
        waiting("a", 60, queued_at=NOW - 61.6, team="lab\n!"),
        waiting("b", 10.26),
        loaded("one", "n/g0", gib=30, traffic=traffic),
        loaded("two", "n/g1", gib=30, priority=Priority.MEDIUM),
        cold("warm", 1.5),
    )
    found = choices(known, unload("one"), load("a"))
    assert found is not None
    facts = found.facts()
    assert facts["rules_would"] == ["unload one", "load a"]
    a, b = sorted(facts["queued"], key=lambda one: str(one["model"]))
    assert a == {
        "model": "a",
        "team": "lab",
        "class": "low",
        "gib": 60.0,
        "load_s": 60,
        "requests": 0,
        "requests_per_hour": 0.0,
        "chance_of_a_request_soon": 0.0,
        "waited_s": 62,
    }
    assert (b["gib"], b["waited_s"]) == (10.3, 60)
    one, two = sorted(facts["loaded_and_idle"], key=lambda one: str(one["model"]))
    assert one == {
        "model": "one",
        "team": None,
        "class": "low",
        "gib": 30.0,
        "load_s": 30,
        "requests": 7,
        "requests_per_hour": 36.0,
        "chance_of_a_request_soon": 0.67,
        "last_request_ago_s": 1001,
        "idle_s": 1001,
    }
    assert (two["class"], two["idle_s"]) == ("medium", 600)
    (warm,) = facts["unloaded_that_fit"]
    assert (warm["model"], warm["gib"], warm["load_s"], "idle_s" in warm) == ("warm", 1.5, 2, False)


def test_the_cards_of_all_listed_models_are_shown_shortened() -> None:
    def carded(name: str, card: str) -> Model:
        return cold(name, profile=profile(1, card=Untrusted(text=card)))

    known = fleet(
        carded("w", " Warm\n\nand   wide "),
        carded("x", "y" * 301),
        carded("blank", " \n "),
        waiting("a", 60, "first"),
        waiting("b", 60, "second"),
        loaded("one", "n/g0", profile=profile(10, card=Untrusted(text="idle"))),
        loaded("two", "n/g1"),
    )
    found = choices(known)
    assert found is not None
    shown = found.card().split("\n")
    assert shown[0].startswith("[untrusted text from the models' cards, between the marks ")
    assert shown[2:-1] == [
        "a: first",
        "b: second",
        "one: idle",
        "w: Warm and wide",
        f"x: {'y' * 300} …(cut)",
    ]
    plain = choices(fleet(cold("m"), cold("n")))
    assert plain is not None and plain.card() == ""


def test_an_answer_becomes_advice_and_what_is_kept_is_not_evicted() -> None:
    found = choices(fleet(cold("m")))
    assert found is not None
    assert found.advice({}) == Advice()
    chosen = {
        "order": ["b", "a"],
        "keep": ["k"],
        "evict": ["e", "k"],
        "prewarm": ["p"],
        "reason": "r",
    }
    assert found.advice(chosen) == Advice(
        order=("b", "a"), keep=("k",), evict=("e",), prewarm=("p",), reason="r"
    )


KNOWN = fleet(
    waiting("wanted", 10, traffic=Traffic(pending=1)),
    waiting("queued", 10),
    cold("always"),
    cold("warm"),
    loaded("one", "n/g0"),
    loaded("two", "n/g1"),
)
WORSE = "worse"


@pytest.mark.parametrize(
    ("rules", "advice", "made", "said"),
    [
        ((), {}, (), []),
        ((load("queued"),), {}, (load("warm"),), []),
        ((load("queued"), load("warm")), {}, (load("warm"),), [(WORSE, "1 models would be loaded; the rules load 2")]),
        ((load("queued"),), {}, (load("warm"), load("queued")), []),
        ((load("wanted"),), {}, (load("wanted"),), []),
        ((load("wanted"), load("always")), {}, (load("queued"), load("warm")), [(WORSE, "always, wanted would wait longer")]),
        ((load("wanted"),), {}, (unload("wanted"), load("queued")), [
            (WORSE, "wanted would wait longer"), (WORSE, "wanted would be evicted; the rules would not"),
        ]),
        ((), {"prewarm": ("warm",)}, (load("warm"),), []),
        ((), {"prewarm": ("warm", "always")}, (load("always"),), [("does-not-fit", "warm: there is no free memory for it")]),
        ((), {"prewarm": ("one",)}, (unload("one"),), [
            ("does-not-fit", "one: there is no free memory for it"), (WORSE, "one would be evicted; the rules would not"),
        ]),
        ((unload("one"),), {}, (unload("two"),), []),
        ((unload("one"),), {}, (), []),
        ((), {}, (unload("two"), unload("one")), [(WORSE, "one, two would be evicted; the rules would not")]),
    ],
)  # fmt: skip
def test_a_plan_that_is_worse_than_the_rules_is_objected_to(
    rules: tuple[Any, ...],
    advice: dict[str, Any],
    made: tuple[Any, ...],
    said: list[tuple[str, str]],
) -> None:
    found = choices(KNOWN, *rules, rules=policy(always_loaded=frozenset({"always"})))
    assert found is not None
    violations = found.objections(Advice(**advice), plan(*made))
    assert [(v.rule, v.message) for v in violations] == said
    for violation in violations:
        subject = violation.message.partition(":")[0]
        assert violation.subject == ("fleet" if violation.rule == WORSE else subject)
