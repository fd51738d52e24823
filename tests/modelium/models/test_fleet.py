"""A snapshot, and copies of it."""

from __future__ import annotations

from tests.fakes.fleets import fleet, loaded, model


def test_a_changed_copy_looks_up_its_own_models() -> None:
    first = fleet(model("a"), loaded("b", "n/g0"))
    assert set(first.models_by_name) == {"a", "b"}
    other = first.model_copy(update={"models": (model("c"),)})
    assert set(other.models_by_name) == {"c"}
    assert set(first.models_by_name) == {"a", "b"}
