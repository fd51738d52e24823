from __future__ import annotations

from typing import Any

import pytest

from modelium.errors import FailureKind, LoadFailed
from modelium.models import LoadSettings, RuntimeName
from modelium.models.runtimes import RUNTIMES
from runtimes.loading.settings import allowed_arguments, complete, flags


@pytest.mark.parametrize(
    ("given", "defaults", "expected"),
    [
        ({}, {}, {}),
        ({}, {"max_batch_size": 8, "other": True}, {"max_num_seqs": 8, "extra": {"other": True}}),
        ({"max_num_seqs": 2}, {"max_batch_size": 8}, {"max_num_seqs": 2}),
        ({}, {"tensor_parallel_size": 2}, {"tensor_parallel_size": 2}),
        ({"tensor_parallel_size": 1}, {"tensor_parallel_size": 2}, {"tensor_parallel_size": 1}),
        ({"max_num_seqs": None}, {"max_num_seqs": 8}, {"max_num_seqs": 8}),
        (
            {"extra": {"a": 1, "b": 2}},
            {"b": 3, "c": 4},
            {"extra": {"a": 1, "b": 2, "c": 4}},
        ),
        ({"max_model_len": 64}, {"max_num_seqs": 8}, {"max_model_len": 64, "max_num_seqs": 8}),
    ],
)
def test_defaults_fill_what_is_not_set(
    given: dict[str, Any], defaults: dict[str, Any], expected: dict[str, Any]
) -> None:
    settings = LoadSettings.model_validate(given)
    found = complete(settings, defaults)
    assert found == LoadSettings.model_validate(expected)
    assert settings == LoadSettings.model_validate(given)


@pytest.mark.parametrize(
    ("default", "context", "given", "expected"),
    [
        (4096, 512, None, 512),
        (256, 512, None, 256),
        ("4096", 512, None, 512),
        (4096, None, None, 4096),
        (4096, 512, 1024, 1024),
        (None, 512, None, None),
    ],
)
def test_a_default_length_is_an_upper_bound_alone(
    default: int | None, context: int | None, given: int | None, expected: int | None
) -> None:
    defaults = {"max_model_len": default} if default is not None else {}
    settings = LoadSettings(max_model_len=given) if given else LoadSettings()
    found = complete(settings, defaults, context_length=context)
    assert found.max_model_len == expected


def arguments(extra: dict[str, Any], *allowed: str) -> dict[str, Any]:
    return allowed_arguments(
        extra,
        runtime=RUNTIMES[RuntimeName.VLLM],
        allowed=allowed,
        reserved={"api_key", "port"},
    )


def test_arguments_that_the_operator_allows_pass_under_either_spelling() -> None:
    extra = {"swap-space": 4, "enable_x": True}
    found = {"swap_space": 4, "enable_x": True}
    assert arguments(extra, "swap_space", "enable-x", "unused") == found
    assert arguments({}) == {}


@pytest.mark.parametrize(
    ("extra", "allowed", "refused"),
    [
        ({"b-c": 1, "a": 2, "fine": 3}, ("fine",), "a, b_c"),
        ({"api-key": "x"}, ("api-key", "api_key"), "api_key"),
        ({"port": 1}, (), "port"),
    ],
)
def test_other_arguments_and_those_of_the_driver_are_refused_by_name(
    extra: dict[str, Any], allowed: tuple[str, ...], refused: str
) -> None:
    with pytest.raises(LoadFailed) as failure:
        arguments(extra, *allowed)
    assert failure.value.kind == FailureKind.BAD_SETTINGS
    assert str(failure.value) == (
        f"vLLM arguments {refused} are not allowed: add them to vllm.allowed_extra (arguments that "
        "the driver sets itself are never allowed)"
    )


def test_arguments_become_options_in_order() -> None:
    given = {"c": True, "a_b": 1, "d_e": False, "-x": "-1", "--y": 0, "f": "g h", "one": 1}
    assert flags(given) == [
        *("--y=0", "--x=-1", "--a-b=1", "--c", "--no-d-e", "--f=g h", "--one=1"),
    ]
