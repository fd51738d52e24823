"""Values of an untrusted configuration: sizes or nothing."""

from typing import Any

import pytest

from modelium.analysis.architecture.numbers import integers, number, ratio, section


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (0, 0),
        (7, 7),
        (7.0, 7),
        (2**40 - 1, 2**40 - 1),
        (2**40, None),
        (-1, None),
        (7.5, None),
        (float("inf"), None),
        (float("nan"), None),
        (True, None),
        (False, None),
        ("7", None),
        (None, None),
        ([7], None),
    ],
)
def test_only_sizes_count_as_numbers(value: Any, found: int | None) -> None:
    assert number({"a": value}, "a") == found
    assert number({"a": value, "b": 3}, "a", "b") == (3 if found is None else found)


def test_the_first_name_wins() -> None:
    assert number({"b": 2, "a": 1}, "a", "b") == 1
    assert number({"b": 2}, "a", "b") == 2
    assert number({"c": 3}, "a", "b") is None
    assert section({"b": {"x": 2}, "a": {"x": 1}}, "a", "b") == {"x": 1}


@pytest.mark.parametrize("value", [None, [], "text", 1])
def test_only_objects_count_as_sections(value: Any) -> None:
    assert section({"a": value}, "a") == {}
    assert section({"a": value, "b": {"x": 2}}, "a", "b") == {"x": 2}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (0.5, 0.5),
        (2, 2.0),
        (8, 8.0),
        (8.1, None),
        (0, None),
        (-0.5, None),
        (float("nan"), None),
        (float("inf"), None),
        (True, None),
        ("0.5", None),
        (None, None),
    ],
)
def test_ratios_are_above_zero_and_bounded(value: Any, found: float | None) -> None:
    assert ratio(value, most=8) == found


def test_only_integers_of_a_list_count() -> None:
    assert integers([3, 1, 3, "2", True, 2.0, None, [4], -1]) == frozenset({1, 3, -1})
    assert integers("12") == integers(None) == integers(3) == frozenset()
