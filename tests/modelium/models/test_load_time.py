"""How long a load may take: by what is known of the model, and of loads before."""

from __future__ import annotations

from modelium.models import GIB, MeasuredLoad, RuntimeName
from modelium.models.load_time import load_bound_s
from tests.fakes.fleets import NOW, model

R = RuntimeName


def took(seconds: float, runtime: RuntimeName = R.VLLM) -> MeasuredLoad:
    return MeasuredLoad(
        runtime=runtime, device_kind="H100", settings_digest="d", per_device_bytes=GIB,
        load_s=seconds, at=NOW,
    )  # fmt: skip


def test_a_first_start_may_compile_and_read_slowly() -> None:
    assert load_bound_s(model("small", 1), R.VLLM) > 3600
    assert load_bound_s(model("huge", 140), R.VLLM) > 3600 + 2 * 1400
    assert load_bound_s(model("new", profile=None), R.VLLM) == 3600


def test_later_starts_are_bounded_by_those_before() -> None:
    assert load_bound_s(model("m", measured=(took(40),)), R.VLLM) == 1800
    assert load_bound_s(model("m", measured=(took(40), took(600))), R.VLLM) == 6000
    assert load_bound_s(model("m", 1, measured=(took(40, R.TRITON),)), R.VLLM) > 3600
