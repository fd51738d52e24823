"""Which old versions go, and in which order; the files of what is removed are moved."""

from __future__ import annotations

from typing import Any

import pytest

from modelium.models import Deployment, LoadSettings, Model, Removal, RuntimeName, Version
from modelium.stages.tidying import in_use, surplus
from tests.fakes import fleets


def version(number: int, *, model: str = "m", at: float | None = None) -> Version:
    registered_at = float(number) if at is None else at
    return Version(
        model=model,
        version=number,
        path=f"/repository/{model}@{number}",
        digest=f"sha256:{number}",
        registered_at=registered_at,
    )


def model(name: str = "m", *, current: int = 5, loaded: int | None = None, **given: Any) -> Model:
    deployment = None
    if loaded is not None:
        deployment = Deployment(
            model=name,
            version=loaded,
            runtime=RuntimeName.VLLM,
            devices=("n/g0",),
            settings=LoadSettings(),
            started_at=0.0,
        )
    return fleets.model(name, version=current, deployment=deployment, **given)


FIVE = [version(number) for number in (5, 4, 3, 2, 1)]
"""As the store lists them: the newest first."""


def left(keep: int, record: Model | None = None, **aliases: str) -> list[int]:
    return [each.version for each in surplus(FIVE, {"m": record or model()}, aliases, keep=keep)]


@pytest.mark.parametrize(
    ("keep", "gone"),
    [(1, [1, 2, 3, 4]), (2, [1, 2, 3]), (4, [1]), (5, []), (9, [])],
)
def test_the_oldest_versions_beyond_those_to_keep_go_first(keep: int, gone: list[int]) -> None:
    assert left(keep) == gone


def test_the_current_version_is_one_of_those_to_keep_wherever_it_stands() -> None:
    assert left(2, model(current=1)) == [2, 3, 4]
    assert left(1, model(current=3)) == [1, 2, 4, 5]


def test_a_version_that_is_loaded_or_named_stays() -> None:
    assert left(1, model(loaded=2)) == [1, 3, 4]
    assert left(1, first="m:1", newest="m", other="another:3", nobody="m2:4") == [2, 3, 4]


@pytest.mark.parametrize(
    "record", [None, model(removal=Removal(by="me", at=0.0))], ids=["unknown", "being removed"]
)
def test_versions_of_a_model_that_is_no_more_or_goes_itself_are_no_surplus(
    record: Model | None,
) -> None:
    versions = [version(2, model="a"), version(1, model="a"), version(2), version(1)]
    models = {"m": model(current=2)} | ({"a": record} if record else {})
    assert surplus(versions, models, {}, keep=1) == [version(1)]


def test_the_oldest_of_all_models_is_the_first() -> None:
    versions = [version(2, model="a", at=40.0), version(1, model="a", at=30.0)]
    versions += [version(2, at=20.0), version(1, at=10.0)]
    models = {"a": model("a", current=3), "m": model(current=3)}
    assert [(v.model, v.version) for v in surplus(versions, models, {}, keep=1)] == [
        ("m", 1),
        ("m", 2),
        ("a", 1),
        ("a", 2),
    ]


def test_what_is_current_loaded_or_named_is_in_use() -> None:
    assert in_use(model(current=5), {}) == {5}
    assert in_use(model(current=5, loaded=4), {}) == {4, 5}
    aliases = {"a": "m:3", "b": "m", "c": "other:2", "d": "m:1"}
    assert in_use(model(current=5, loaded=4), aliases) == {1, 3, 4, 5}
