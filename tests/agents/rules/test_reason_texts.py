"""What operators read when a model is left alone, rejected or queued."""

from __future__ import annotations

from typing import Any

import pytest

from agents.rules.device_memory import DeviceMemory
from agents.rules.reasons import DISABLED, left_alone, no_room, not_runnable, too_large
from modelium.lifecycle import ModelState
from modelium.models import (
    Fleet,
    Model,
    ModelProfile,
    Removal,
    RuntimeName,
    RuntimeStatus,
    RuntimeSupport,
    Traffic,
    Trigger,
)
from modelium.policy import Policy
from tests.fakes.fleets import NOW, fleet, loaded, model, policy, profile

S = ModelState
V, RAY, TRITON = RuntimeName.VLLM, RuntimeName.RAY_SERVE, RuntimeName.TRITON
DEMAND, INGEST, OPERATOR = Trigger.DEMAND, Trigger.INGEST, Trigger.OPERATOR

PAUSED = model("a", state=S.FAILED, failures=3, retry_at=NOW + 59.6)
OUT = model("a", state=S.FAILED, failures=5, reason="quarantined after 5")
EVICTED = model("a", state=S.UNLOADED, evicted_at=NOW - 5)
PAUSED_FOR = "3 loads failed; the next attempt is due in 60 s, or when an operator loads it"


def evicted_for(seconds: float) -> str:
    return (
        f"evicted {seconds:.0f} s ago; a request or an operator loads it again, a change of its "
        "folder does not"
    )


def few(requests: int, threshold: int) -> str:
    return (
        f"{requests} requests wait; it is loaded when more than {threshold} do "
        "(pending_requests_threshold)"
    )


@pytest.mark.parametrize(
    ("subject", "trigger", "expected"),
    [
        (model("a"), INGEST, ""),
        (model("a"), DEMAND, ""),
        (model("a", removal=Removal(by="ann", at=1)), OPERATOR, "being removed; ann asked for it"),
        (loaded("a", "n/g0", "n/g1"), OPERATOR, "already ready on n/g0, n/g1"),
        (loaded("a", "n/g0", state=S.LOADING), INGEST, "already loading on n/g0"),
        (model("a", state=S.LOADING), DEMAND, "already loading on a device"),
        (loaded("a", "n/g0", state=S.DRAINING), OPERATOR, "draining; it is decided on again afterwards"),
        (model("a", state=S.INGESTED), DEMAND, "ingested; it is decided on again afterwards"),
        (loaded("a", "n/g0", state=S.SLEEPING), DEMAND, ""),
        (OUT, DEMAND, "quarantined after 5"),
        (OUT, INGEST, "quarantined after 5"),
        (OUT, OPERATOR, ""),
        (PAUSED, DEMAND, PAUSED_FOR),
        (PAUSED, INGEST, PAUSED_FOR),
        (PAUSED, OPERATOR, ""),
        (PAUSED.model_copy(update={"retry_at": NOW}), DEMAND, ""),
        (EVICTED, INGEST, evicted_for(5)),
        (EVICTED.model_copy(update={"evicted_at": NOW + 5}), INGEST, evicted_for(0)),
        (EVICTED, DEMAND, ""),
        (EVICTED, OPERATOR, ""),
        (model("a", state=S.UNLOADED), INGEST, ""),
        (model("a", state=S.QUEUED, evicted_at=NOW - 5), INGEST, ""),
    ],
)  # fmt: skip
def test_a_model_is_left_alone_for_the_first_reason_that_applies(
    subject: Model, trigger: Trigger, expected: str
) -> None:
    assert left_alone(subject, policy(), trigger=trigger, now=NOW) == expected


@pytest.mark.parametrize(
    ("pending", "threshold", "expected"),
    [
        (0, 0, ""),
        (0, 1, few(1, 1)),
        (1, 1, few(1, 1)),
        (2, 1, ""),
        (2, 2, few(2, 2)),
    ],
)
def test_one_request_at_least_waits_where_requests_ask(
    pending: int, threshold: int, expected: str
) -> None:
    by = policy(pending_requests_threshold=threshold)
    subject = model("a", traffic=Traffic(pending=pending))
    assert left_alone(subject, by, trigger=DEMAND, now=NOW) == expected
    for other in (INGEST, OPERATOR):
        assert left_alone(subject, by, trigger=other, now=NOW) == ""


def test_a_service_that_only_observes_leaves_every_model_alone() -> None:
    assert left_alone(model("a"), policy(enabled=False), trigger=OPERATOR, now=NOW) == DISABLED


def support(runtime: RuntimeName, reason: str = "") -> RuntimeSupport:
    return RuntimeSupport(runtime=runtime, supported=not reason, reason=reason)


CODE = profile(1, needs_remote_code=True)
BOTH = profile(1, needs_remote_code=True, details={"pickle": ["a.bin"]})


@pytest.mark.parametrize(
    ("files", "approved", "expected"),
    [
        (profile(1), (), ""),
        (CODE, (), "needs an operator's approval for remote-code: run `modelium approve a`"),
        (CODE, ("pickle",), "needs an operator's approval for remote-code: run `modelium approve a`"),
        (CODE, ("remote-code",), ""),
        (BOTH, (), "needs an operator's approval for pickle, remote-code: run `modelium approve a`"),
        (profile(1, runtimes=(support(V, "no"), support(RAY))), (), ""),
        (
            profile(1, runtimes=(support(V, "no kernel"), support(TRITON))),
            (),
            "no enabled runtime can serve it (vllm: no kernel; triton: not enabled)",
        ),
        (
            profile(1, runtimes=()),
            (),
            "no enabled runtime can serve it (no runtime supports its format)",
        ),
    ],
)  # fmt: skip
def test_a_model_that_may_not_run_says_what_is_missing(
    files: ModelProfile, approved: tuple[str, ...], expected: str
) -> None:
    subject = model("a", profile=files, approvals=frozenset(approved))
    assert not_runnable(subject, files, policy()) == expected


def large(world: Fleet, by: Policy | None = None, **given: Any) -> str:
    return too_large(model("a", **given), world, by or policy())


def test_a_model_that_is_too_large_reads_what_the_largest_device_offers() -> None:
    (one,) = fleet(gpus=1, gib=40).devices
    (other,) = fleet(gpus=1, gib=80).devices
    unlike = fleet(devices=(one, other.model_copy(update={"uuid": "other"})))
    assert large(unlike, policy(max_gpu_memory_utilization=0.75)) == (
        "too large, even alone and with the smallest settings: the largest device offers 60.0 GiB "
        "(75% of its memory, max_gpu_memory_utilization)"
    )


def test_a_model_might_fit_where_a_device_or_its_runtime_is_missing() -> None:
    assert large(fleet(devices=())) == ""
    whole = fleet()
    lost = whole.devices[1].model_copy(update={"healthy": False})
    assert large(fleet(devices=(whole.devices[0], lost))) == ""
    assert large(fleet(runtimes=())) == ""
    assert large(fleet(), profile=profile(1, runtimes=(support(V, "no"), support(TRITON)))) == ""
    assert large(fleet(), profile=None) == ""
    assert large(fleet(), profile=profile(1, runtimes=(support(TRITON), support(V)))) != ""


def room(*models: Model, subject: Model | None = None, **given: Any) -> str:
    world = fleet(*models, **given)
    memory = DeviceMemory(fleet=world, policy=policy(), now=NOW, value=lambda _: 0.0)
    return no_room(subject or model("a"), world, memory)


def test_what_holds_the_memory_is_counted_by_why_it_stays() -> None:
    none = "no device has room now; models in memory: "
    assert room() == none + "none"
    held = [
        loaded("p1", "n/g0", pinned=True),
        loaded("busy", "n/g0", traffic=Traffic(in_flight=1)),
        loaded("p2", "n/g1", pinned=True),
        loaded("a", "n/g1", pinned=True),  # the model itself
        loaded("free", "n/g1"),
        model("elsewhere"),
    ]
    assert room(*held) == (none + "1 busy, 1 idle, but not to be evicted for this load, 2 pinned")


def test_without_a_healthy_device_the_doctor_is_named() -> None:
    lost = fleet(gpus=1).devices[0].model_copy(update={"healthy": False})
    assert room(devices=(lost,)) == "no device is healthy; run `modelium doctor`"
    assert room(devices=()) == "no device is healthy; run `modelium doctor`"
    well = fleet(gpus=1).devices[0].model_copy(update={"uuid": "well"})
    assert room(devices=(lost, well)) == "no device has room now; models in memory: none"


def test_a_model_waits_for_those_of_its_runtimes_that_are_silent() -> None:
    statuses = (
        RuntimeStatus(name=V, enabled=True, healthy=False, starting=True),
        RuntimeStatus(name=RAY, enabled=True, healthy=False, detail="refused"),
        RuntimeStatus(name=TRITON, enabled=True, healthy=False),
    )
    waits = "waits for its runtime: "
    silent = "vllm is starting; ray_serve does not answer (refused)"
    assert room(runtimes=statuses) == waits + silent
    bare = (statuses[1].model_copy(update={"detail": ""}),)
    assert room(runtimes=bare) == waits + "ray_serve does not answer (no detail)"
    known = (statuses[0].model_copy(update={"detail": "x" * 300}),)
    assert room(runtimes=known) == f"{waits}vllm is starting ({'x' * 300})"
    long = (statuses[1].model_copy(update={"detail": "x" * 301}),)
    assert room(runtimes=long) == f"{waits}ray_serve does not answer ({'x' * 300}…)"
    none = "no device has room now; models in memory: none"
    off = statuses[1].model_copy(update={"enabled": False})
    assert room(runtimes=(off,)) == none
    assert room(runtimes=(statuses[2],)) == none
    assert room(runtimes=statuses, subject=model("a", profile=None)) == none
