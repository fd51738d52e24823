"""Rows are parsed once while they stay as they are."""

from __future__ import annotations

from modelium.models import Preference, RuntimeName
from modelium.store.row_cache import RowCache

RAW = Preference(runtime=RuntimeName.VLLM).model_dump_json()
OTHER = Preference(runtime=RuntimeName.TRITON).model_dump_json()


def test_an_unchanged_row_is_the_same_object() -> None:
    cache = RowCache()
    first = cache.read(Preference, "a", RAW)
    assert first == Preference(runtime=RuntimeName.VLLM)
    assert cache.read(Preference, "a", RAW) is first


def test_a_changed_row_is_read_anew() -> None:
    cache = RowCache()
    cache.read(Preference, "a", RAW)
    assert cache.read(Preference, "a", OTHER) == Preference(runtime=RuntimeName.TRITON)


def test_rows_of_different_keys_are_kept_apart() -> None:
    cache = RowCache()
    cache.read(Preference, "a", RAW)
    assert cache.read(Preference, "b", OTHER) == Preference(runtime=RuntimeName.TRITON)
    assert cache.read(Preference, "a", RAW) == Preference(runtime=RuntimeName.VLLM)


def test_a_row_that_the_driver_has_parsed_is_read_too() -> None:
    parsed = {"runtime": "vllm"}
    assert RowCache().read(Preference, "a", parsed) == Preference(runtime=RuntimeName.VLLM)


def test_nothing_is_read_as_nothing() -> None:
    assert RowCache().read(Preference, "a", None) is None


def test_rows_that_are_gone_are_forgotten() -> None:
    cache = RowCache()
    first, second = cache.read(Preference, "a", RAW), cache.read(Preference, "b", RAW)
    cache.retain({"a"})
    assert cache.read(Preference, "a", RAW) is first
    assert cache.read(Preference, "b", RAW) is not second
