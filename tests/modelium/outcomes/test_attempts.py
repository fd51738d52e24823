"""Which classes of models a runtime keeps failing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from modelium.errors import FailureKind
from modelium.models import Event, ModelFormat, RuntimeName
from modelium.models.outcomes import ClassFailures, ModelClass
from modelium.outcomes import attempts
from modelium.outcomes.attempts import Setup, class_failures

V, RAY = RuntimeName.VLLM, RuntimeName.RAY_SERVE
LLAMA = ModelClass(format=ModelFormat.TRANSFORMERS, architecture="Llama", quantization="awq")
BERT = ModelClass(format=ModelFormat.TRANSFORMERS, architecture="Bert")
CLASSES = {("a", 1): LLAMA, ("b", 1): LLAMA, ("b", 2): BERT, ("c", 1): LLAMA}
NOW = Setup(settings="s", engine="1.0")
SETUPS = {V: NOW, RAY: NOW}


class Log:
    """Events as the stages write them, a second apart."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(self, kind: str, model: str, /, **detail: Any) -> Log:
        at = float(len(self.events) + 1)
        self.events.append(Event(at=at, kind=f"model.{kind}", model=model, detail=detail))
        return self

    def tried(self, kind: str, model: str, /, **given: Any) -> Log:
        fields = {"version": 1, "runtime": "vllm", "setup": NOW.detail(), **given}
        return self.add(kind, model, **fields)

    def failed(self, model: str, kind: str = "killed", **given: Any) -> Log:
        return self.tried("failed", model, kind=kind, **given)

    def lost(self, model: str, kind: str = "killed", **given: Any) -> Log:
        return self.tried("lost", model, kind=kind, **given)

    def ready(self, model: str, **given: Any) -> Log:
        return self.tried("ready", model, **given)

    def found(self, setups: Mapping[RuntimeName, Setup] = SETUPS) -> tuple[ClassFailures, ...]:
        return class_failures(self.events, classes=CLASSES, setups=setups)


def failing(
    failures: int, *models: str, at: float, of: ModelClass = LLAMA, runtime: RuntimeName = V
) -> ClassFailures:
    return ClassFailures(
        model_class=of, runtime=runtime, failures=failures, models=models, last_at=at
    )


def test_failures_count_by_class_and_runtime_the_newest_first() -> None:
    log = Log().failed("b").failed("a").failed("b", version=2).failed("c", runtime="ray_serve")
    assert log.found() == (
        failing(1, "c", at=4, runtime=RAY),
        failing(1, "b", at=3, of=BERT),
        failing(2, "a", "b", at=2),
    )


def test_a_success_of_the_class_ends_the_row_in_its_runtime_alone() -> None:
    log = Log().failed("a").failed("a", runtime="ray_serve").ready("b").failed("c").failed("a")
    assert log.found() == (failing(2, "a", "c", at=5), failing(1, "a", at=2, runtime=RAY))
    assert log.ready("a").found() == (failing(1, "a", at=2, runtime=RAY),)


def test_a_load_whose_engine_is_lost_soon_counts_as_failed() -> None:
    assert Log().failed("a").ready("b").lost("b").found() == (failing(2, "a", "b", at=3),)
    assert Log().failed("a").ready("c").ready("b").lost("b").found() == (failing(1, "b", at=4),)


def test_a_second_loss_takes_no_other_success_back() -> None:
    log = Log().failed("c").ready("a").ready("b").lost("b").lost("b")
    assert log.found() == (failing(2, "b", at=5),)


def test_a_loss_after_a_long_time_is_no_failure() -> None:
    log = Log().ready("a").tried("lost", "a")
    assert log.found() == ()


@pytest.mark.parametrize("kind", [*FailureKind, "passing", "", 7, None])
def test_only_faults_of_the_runtime_count(kind: Any) -> None:
    others = {"out-of-memory", "bad-files", "passing", "", 7, None}
    expected = () if kind in others else (failing(1, "a", at=1),)
    assert Log().failed("a", kind=kind).found() == expected


def test_what_an_operator_forgives_counts_no_more() -> None:
    log = Log().failed("a").failed("b").add("retry", "a")
    assert log.found() == (failing(1, "b", at=2),)
    assert log.failed("a").found() == (failing(2, "a", "b", at=4),)


def test_forgiving_takes_back_no_success() -> None:
    assert Log().failed("b").ready("a").add("retry", "a").found() == ()


@pytest.mark.parametrize(
    ("then", "now", "counts"),
    [
        (("s", "1.0"), NOW, True),
        (("s", ""), NOW, True),
        (("s", "1.0"), Setup(settings="s"), True),
        (("s", "1.1"), NOW, False),
        (("t", "1.0"), NOW, False),
        (("t", ""), Setup(settings="s"), False),
    ],
)
def test_what_happened_with_another_setup_counts_no_more(
    then: tuple[str, str], now: Setup, counts: bool
) -> None:
    assert (Log().failed("a", setup=list(then)).found({V: now}) != ()) == counts


def test_successes_with_another_setup_do_not_count_either() -> None:
    assert Log().failed("a").ready("b", setup=["t", ""]).found() == (failing(1, "a", at=1),)


@pytest.mark.parametrize(
    "given",
    [
        *[{"setup": setup} for setup in (None, "s", ["s"], [1, ""], ["s", "1.0", "more"])],
        *[{"runtime": runtime} for runtime in (None, "", "onnx", 7, ["vllm"])],
        *[{"version": version} for version in (None, "1", 3, [1])],
    ],
)
def test_events_that_do_not_say_enough_are_no_evidence(given: dict[str, Any]) -> None:
    assert Log().failed("a", **given).found() == ()
    assert Log().add("failed", "a", reason="refused").add("failed", "x").found() == ()
    assert Log().failed("a", **given).failed("b").found() == (failing(1, "b", at=2),)


def test_a_runtime_that_is_not_known_now_is_not_judged() -> None:
    assert Log().failed("a").found({RAY: NOW}) == ()


def test_no_flood_of_classes_fills_every_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "MOST", 2)
    log = Log().failed("a").failed("b", version=2).failed("c", runtime="ray_serve")
    assert [f.last_at for f in log.found()] == [3, 2]
