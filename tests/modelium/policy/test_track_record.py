"""When the record of a class of models is enough to avoid a runtime."""

from __future__ import annotations

from typing import Any

import pytest

from modelium.models import MeasuredLoad, ModelFormat, RuntimeName
from modelium.models.outcomes import ClassFailures, ModelClass
from modelium.policy.track_record import avoided, reason
from tests.fakes.fleets import NOW, fleet, model, policy, profile

V, RAY = RuntimeName.VLLM, RuntimeName.RAY_SERVE
DAY_S = 86_400.0


def failing(runtime: RuntimeName = V, **given: Any) -> ClassFailures:
    fields = {"failures": 3, "models": ("x", "y"), "last_at": NOW - 10, **given}
    return ClassFailures(
        model_class=fields.pop("model_class", ModelClass.of(profile(1))), runtime=runtime, **fields
    )


def judged(*found: ClassFailures, **rules: Any) -> dict[RuntimeName, ClassFailures]:
    return avoided(model("a"), fleet(class_failures=found), policy(**rules))


def test_a_runtime_that_failed_the_class_is_avoided_with_the_evidence() -> None:
    assert judged() == {}
    assert judged(failing(), failing(RAY)) == {V: failing(), RAY: failing(RAY)}


@pytest.mark.parametrize(
    ("given", "rules", "expected"),
    [
        ({"failures": 2}, {}, False),
        ({"failures": 4}, {}, True),
        ({"models": ("x",)}, {}, False),
        ({"models": ("x", "y", "z")}, {}, True),
        ({"last_at": NOW - DAY_S}, {}, False),
        ({"last_at": NOW - DAY_S + 1}, {}, True),
        ({"last_at": NOW - 60}, {"avoid_runtime_s": 60.0}, False),
        ({}, {"avoid_runtime_after": 4}, False),
        ({"failures": 4}, {"avoid_runtime_after": 4}, True),
        ({}, {"avoid_runtime_after": 0}, False),
    ],
)
def test_the_evidence_has_bounds_in_count_and_time(
    given: dict[str, Any], rules: dict[str, Any], expected: bool
) -> None:
    assert (judged(failing(**given), **rules) != {}) == expected


@pytest.mark.parametrize(
    ("teams", "own", "expected"),
    [
        (("", ""), None, True),
        (("", ""), "t", False),
        (("t", "t"), "t", True),
        (("t", "t"), "u", False),
        (("t", "t"), None, False),
        (("t", "u"), "t", True),
        (("t", "u"), "v", True),
        (("t", "u"), None, True),
        (("t", ""), "u", True),
    ],
)
def test_what_one_team_drops_changes_nothing_for_the_others(
    teams: tuple[str, str], own: str | None, expected: bool
) -> None:
    found = failing(teams=dict(zip("xy", teams, strict=True)))
    world = fleet(class_failures=(found,))
    assert (avoided(model("a", team=own), world, policy()) != {}) is expected


@pytest.mark.parametrize(
    "other",
    [
        {"format": ModelFormat.GGUF},
        {"architecture": "BertModel"},
        {"quantization": "awq"},
    ],
)
def test_another_class_is_not_affected(other: dict[str, Any]) -> None:
    of = ModelClass.of(profile(1, **other))
    assert judged(failing(model_class=of)) == {}
    subject = model("a", profile=profile(1, **other))
    world = fleet(class_failures=(failing(model_class=of),))
    assert avoided(subject, world, policy()) == {V: failing(model_class=of)}


def test_a_model_that_the_runtime_has_loaded_is_judged_by_itself() -> None:
    load = MeasuredLoad(
        runtime=V, device_kind="H100", settings_digest="", per_device_bytes=1, load_s=1, at=0
    )
    world = fleet(class_failures=(failing(), failing(RAY)))
    assert set(avoided(model("a", measured=(load,)), world, policy())) == {RAY}


def test_a_model_that_is_not_analyzed_has_no_class() -> None:
    assert avoided(model("a", profile=None), fleet(class_failures=(failing(),)), policy()) == {}


def test_the_reason_names_some_models_and_nothing_from_their_files() -> None:
    few, many = failing(), failing(failures=5, models=("p", "q", "x", "y"))
    said = "not in vllm, where the last {} loads of models of its class failed ({})"
    assert reason(few) == said.format(3, "x, y")
    assert reason(many) == said.format(5, "p, q, x, …")
    assert reason(failing(models=("p", "q", "x"))) == said.format(3, "p, q, x")
