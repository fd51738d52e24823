"""What counts of a wish, and the sentence that says what became of it."""

from __future__ import annotations

from typing import Any

import pytest

from modelium.models import LoadSettings, Model, Priority, RuntimeName, Setbacks, Wishes
from modelium.policy import Policy, RuntimeRules, TeamRules
from modelium.policy.wish_outcomes import longest_wished, wish_outcomes, wished_context
from tests.fakes.fleets import loaded, model, policy, profile

V, S, T = RuntimeName.VLLM, RuntimeName.RAY_SERVE, RuntimeName.TRITON


def told(of: Model | None = None, by: Policy | None = None, **wishes: Any) -> list[str]:
    subject = of or model("m")
    wishing = subject.model_copy(update={"wishes": Wishes(**wishes)})
    return list(wish_outcomes(wishing, by or policy()))


@pytest.mark.parametrize(
    ("wished", "requested", "context", "expected"),
    [
        (2048, None, 4096, 2048),
        (4095, None, 4096, 4095),
        (4096, None, 4096, None),
        (9999, None, 4096, None),
        (2048, 2049, 4096, 2048),
        (2048, 2048, 4096, None),
        (3000, 2048, 4096, None),
        (16, None, 4096, 1024),
        (16, 1024, 4096, None),
        (2048, None, None, None),
        (2048, 3000, None, 2048),
        (None, None, 4096, None),
    ],
)
def test_a_wish_shortens_a_context_down_to_the_floor(
    wished: int | None, requested: int | None, context: int | None, expected: int | None
) -> None:
    files = profile(1, context_length=context)
    found = wished_context(Wishes(context=wished), files, requested, policy())
    assert found == expected
    assert wished_context(None, files, requested, policy()) is None


def test_without_a_note_there_is_nothing_to_tell() -> None:
    assert wish_outcomes(model("m"), policy()) == ()
    assert told() == []


def test_a_team() -> None:
    by = policy(teams={"lab": TeamRules(), "prod": TeamRules()})
    assert told(model("m", team="lab"), by, team="lab") == ["team lab: granted"]
    denied = "; drop it into the folder of prod, or ask an operator to set teams.prod.claimable"
    assert told(model("m", team="lab"), by, team="prod") == [
        f"team prod: not granted: the model belongs to team lab{denied}"
    ]
    assert told(None, by, team="prod") == [f"team prod: not granted: the model has no team{denied}"]
    assert told(None, by, team="x") == ["team x: not granted: no such team is declared"]


def test_a_priority() -> None:
    high, medium, low = Priority.HIGH, Priority.MEDIUM, Priority.LOW
    assert told(model("m", priority=medium), priority=medium) == ["priority medium: granted"]
    assert told(model("m", priority=high), priority=medium) == [
        "priority medium: not used: the model has high, and a wish never lowers that"
    ]
    capped = model("m", priority=medium, priority_ceiling=medium)
    assert told(capped, priority=high) == ["priority high: not granted: its ceiling is medium"]
    by = policy(teams={"lab": TeamRules()})
    assert told(model("m", team="lab"), by, priority=high) == [
        "priority high: not granted: an operator or a plan gave it low"
    ]
    assert told(model("m", priority=low), priority=high) == [
        "priority high: not granted: it has low; a wish counts only up to the ceiling of a "
        "declared team, or up to one that an operator set for the model"
    ]


def test_a_context() -> None:
    assert told(context=2048) == ["context 2048: used by llama_cpp and vllm"]
    assert told(context=16) == [
        "context 16: raised to 1024 (max_model_len_floor), used by llama_cpp and vllm"
    ]
    assert told(context=4096) == ["context 4096: not needed: the context is 4096 anyway"]
    unknown = model("m", profile=profile(1, context_length=None))
    assert told(unknown, context=2048) == [
        "context 2048: not used: the context length of the model is not known"
    ]
    assert told(model("m", profile=None), context=2048) == [
        "context 2048: not used: the context length of the model is not known"
    ]
    own = policy(model_settings={"m": {"max_model_len": 3000}})
    assert told(by=own, context=2048) == [
        "context 2048: not used: models.m.settings sets max_model_len"
    ]
    small = policy(runtimes={V: RuntimeRules(default_settings={"max_model_len": 2000})})
    assert told(loaded("m", "n/g0"), small, context=2048) == [
        "context 2048: not needed: the context is 2000 anyway"
    ]
    assert told(by=small, context=2048, runtime=V)[0] == (
        "context 2048: not needed: the context is 2000 anyway"
    )


@pytest.mark.parametrize(
    ("length", "wished", "expected"),
    [
        (2049, 2048, "not used yet: it is loaded with 2049; the next load has 2048 at most"),
        (2048, 2048, "used by llama_cpp and vllm"),
        (1024, 2048, "used by llama_cpp and vllm"),
        (None, 2048, "used by llama_cpp and vllm"),
        (1025, 16, "not used yet: it is loaded with 1025; the next load has 1024 at most"),
        (1024, 16, "raised to 1024 (max_model_len_floor), used by llama_cpp and vllm"),
    ],
)
def test_a_context_that_is_loaded_longer_is_told(
    length: int | None, wished: int, expected: str
) -> None:
    running = loaded("m", "n/g0")
    assert running.deployment is not None
    how = running.deployment.model_copy(update={"settings": LoadSettings(max_model_len=length)})
    running = running.model_copy(update={"deployment": how})
    assert told(running, context=wished) == [f"context {wished}: {expected}"]


def test_the_operators_context_of_a_model_ends_no_sooner() -> None:
    subject = model("m").model_copy(update={"wishes": Wishes(context=2048)})
    assert longest_wished(subject, policy()) == 2048
    own = policy(model_settings={"m": {"max_model_len": 3000}})
    assert longest_wished(subject, own) is None
    assert longest_wished(model("m"), policy()) is None
    wordy = model("m").model_copy(update={"wishes": Wishes(text="Warm.")})
    assert longest_wished(wordy, policy()) is None


def test_a_runtime() -> None:
    assert told(runtime=V) == ["runtime vllm: tried first at the next load"]
    assert told(loaded("m", "n/g0"), runtime=V) == ["runtime vllm: used"]
    assert told(loaded("m", "n/g0"), runtime=S) == [
        "runtime ray_serve: not used: loading the model in vllm cost less"
    ]
    assert told(runtime=T) == ["runtime triton: not possible: not assessed"]
    disabled = policy(runtimes={V: RuntimeRules(enabled=False)})
    assert told(by=disabled, runtime=V) == ["runtime vllm: not possible: it is not enabled"]
    failing = model("m", setbacks=Setbacks(runtimes={V: 2}))
    assert told(failing, runtime=V) == ["runtime vllm: not used: 2 loads failed there"]


def test_words_and_mistakes() -> None:
    assert told(text="Warm\n at nine.", problems=("unknown: 'x'", "no")) == [
        "words (read by people and the LLM only): Warm at nine.",
        "unknown: 'x'",
        "no",
    ]
