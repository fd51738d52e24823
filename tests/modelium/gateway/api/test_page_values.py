"""The numbers on the status page and in the rows behind it; signatures at their bounds."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest

from modelium.gateway.api import signatures
from modelium.gateway.api.signatures import Signatures
from modelium.gateway.api.status_page import MAX_REJECTED, render
from modelium.gateway.api.views import (
    decision_detail,
    device_rows,
    model_detail,
    model_rows,
    openai_model,
)
from modelium.gateway.problems import HttpProblem
from modelium.models import (
    GIB,
    Booking,
    Decision,
    DropState,
    Fleet,
    Plan,
    RuntimeName,
    RuntimeStatus,
    Trigger,
)
from modelium.models.teams import TeamReport
from tests.modelium.gateway.api.fleets import GPU, drop, fleet


def page(known: Fleet, **given: Any) -> str:
    return render(known, links={}, **given)


def with_booking(*, booked: int, resident: int | None) -> Fleet:
    booking = Booking(model="gpt2", device=GPU.id, bytes=booked, resident_bytes=resident)
    return fleet().model_copy(update={"bookings": (booking,)})


def cells(text: str, row: str) -> list[str]:
    """The numbers of one table row."""
    line = next(part for part in text.split("<tr>") if f"<strong>{row}</strong>" in part)
    return [cell.partition("</td>")[0] for cell in line.split('<td class="n">')[1:]]


@pytest.mark.parametrize(
    ("booked", "resident", "shown"),
    [
        (20 * GIB, 19 * GIB, "19.0 GiB"),
        (20 * GIB, None, "20.0 GiB"),
        (20 * GIB, 0, "20.0 GiB"),
        (0, 19 * GIB, ""),
    ],
)
def test_a_models_memory_is_what_it_holds_or_what_is_booked(
    booked: int, resident: int | None, shown: str
) -> None:
    text = page(with_booking(booked=booked, resident=resident))
    assert cells(text, "gpt2") == [shown, "10 s", "1.50", "0"]
    assert cells(text, "cold") == ["", "", "0.00", "0"]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"), (89.4, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (9000, "2.5 h"),
    ],
)  # fmt: skip
def test_a_duration_is_told_in_its_unit(seconds: float, shown: str) -> None:
    text = page(fleet(), drops=[drop(since=1000.0 - seconds)])
    assert cells(text, "half.gguf") == [shown]


def test_a_teams_row_has_what_it_holds_and_may_hold() -> None:
    lab = TeamReport(
        name="lab",
        declared=True,
        weight=2.5,
        models=3,
        loaded=1,
        queued=2,
        held_bytes=20 * GIB,
        memory_quota_bytes=40 * GIB,
        gpu_seconds=1234.6,
        gpu_seconds_quota=86400,
    )
    odd = TeamReport(name="<odd>", declared=False, models=1, gpu_seconds=0.4)
    text = page(fleet(), teams=[lab, odd])
    assert cells(text, "lab") == ["1 / 3", "2", "20.0 GiB / 40.0 GiB", "1235 / 86400", "2.5"]
    assert cells(text, "&lt;odd&gt;") == ["0 / 1", "0", "0.0 GiB", "0", "1"]
    assert "<strong>lab</strong></td>" in text
    assert '<strong>&lt;odd&gt;</strong> <span class="soft">not declared</span></td>' in text


def test_without_teams_the_page_has_no_section_for_them() -> None:
    assert "<h2>Teams</h2>" in page(fleet(), teams=[TeamReport(name="a", declared=True)])
    assert "Teams" not in page(fleet())


def test_a_drop_of_the_future_is_of_now() -> None:
    assert cells(page(fleet(), drops=[drop(since=2000.0)]), "half.gguf") == ["0 s"]


@pytest.mark.parametrize(
    ("total", "free", "booked", "used_share", "booked_share"),
    [
        (80, 50, 20, "38", ("25.0", "37.5")),
        (80, 80, 0, "0", ("0.0", "0.0")),
        (80, 90, 90, "0", ("100.0", "0.0")),
        (80, -10, 80, "100", ("100.0", "100.0")),
        (0, 0, 0, "0", ("0.0", "0.0")),
    ],
)
def test_a_meter_shows_the_shares_of_a_device(
    total: int, free: int, booked: int, used_share: str, booked_share: tuple[str, str]
) -> None:
    gpu = GPU.model_copy(update={"total_bytes": total * GIB, "free_bytes": free * GIB})
    known = with_booking(booked=booked * GIB, resident=None)
    text = page(known.model_copy(update={"devices": (gpu,)}))
    assert f'aria-valuenow="{used_share}"' in text
    assert f'<i class="booked" style="width:{booked_share[0]}%"></i>' in text
    assert f'<i style="width:{booked_share[1]}%"></i>' in text
    sizes = [f"{total - free}.0 GiB / {total}.0 GiB", f"{booked}.0 GiB", ""]
    assert cells(text, "2") == sizes


def test_devices_and_models_are_marked() -> None:
    busy = GPU.model_copy(update={"utilization": 0.25, "healthy": False})
    hot = busy.model_copy(update={"detail": "too hot"})
    text = page(fleet(pinned=True).model_copy(update={"devices": (busy,)}))
    assert cells(text, "2")[-1].startswith("25%")
    assert '<span class="state sick">down</span>' in text
    assert text.count("📌") == 1
    assert '<span class="state sick">too hot</span>' in page(
        fleet().model_copy(update={"devices": (hot,)})
    )
    assert 'class="state sick"' not in page(fleet())


def test_only_a_runtime_that_should_run_is_told_to_be_down() -> None:
    def told(**given: bool) -> bool:
        status = RuntimeStatus(name=RuntimeName.VLLM, detail="x", **given)
        return "vllm is down" in page(fleet().model_copy(update={"runtimes": (status,)}))

    assert told(enabled=True, healthy=False)
    assert not told(enabled=True, healthy=True)
    assert not told(enabled=False, healthy=False)


def test_rejected_drops_come_last_and_are_bounded() -> None:
    rejected = [drop(name=f"r{i}", state=DropState.REJECTED) for i in range(MAX_REJECTED + 1)]
    text = page(fleet(), drops=[*rejected, *[drop(name=f"p{i}") for i in range(MAX_REJECTED + 1)]])
    shown = [part.partition("</strong>")[0] for part in text.split("<tr><td><strong>")]
    first, last = shown.index("p0"), shown.index(f"r{MAX_REJECTED - 1}")
    assert shown[first : last + 1] == [
        *[f"p{i}" for i in range(MAX_REJECTED + 1)],
        *[f"r{i}" for i in range(MAX_REJECTED)],
    ]
    assert f"r{MAX_REJECTED}" not in shown
    assert "<h2>Drops</h2>" not in page(fleet())


# --- rows ----------------------------------------------------------------------------------------


def test_rows_add_up_the_bookings_of_a_model() -> None:
    second = GPU.model_copy(update={"uuid": "GPU-2", "index": 3})

    def booking(device: Any, size: int, resident: int | None, model: str = "gpt2") -> Booking:
        return Booking(model=model, device=device.id, bytes=size, resident_bytes=resident)

    for resident, whole in ((5, 9), (None, None)):
        known = fleet().model_copy(
            update={
                "devices": (GPU, second),
                "bookings": (
                    booking(GPU, 10, 4),
                    booking(second, 20, resident),
                    booking(second, 7, 7, "other"),
                ),
            }
        )
        loaded, cold = model_rows(known)
        assert (loaded.booked_bytes, loaded.resident_bytes) == (30, whole)
        assert (cold.booked_bytes, cold.resident_bytes, cold.devices) == (0, 0, ())
        one, two = device_rows(known)
        assert (one.booked_bytes, one.models) == (10, ("gpt2",))
        assert (two.booked_bytes, two.models, two.used_bytes) == (27, ("gpt2", "other"), 30 * GIB)
    lost = fleet().model_copy(update={"devices": ()})
    assert model_rows(lost)[0].devices == (GPU.id,)


def test_a_model_is_shown_without_secrets_and_under_its_alias() -> None:
    loaded, cold = fleet(team=None).models
    shown = model_detail(loaded)
    assert shown["quarantined"] is False
    assert "handle" not in shown["deployment"]
    assert "api_key" not in shown["deployment"]["upstream"]
    assert shown["deployment"]["upstream"]["port"] == 1
    assert openai_model(loaded, alias="a") == {
        "id": "a", "alias_of": "gpt2", "object": "model", "created": 800, "owned_by": "modelium",
        "version": 1, "state": "ready", "runtime": "vllm",
    }  # fmt: skip
    assert openai_model(cold)["id"] == "cold"
    assert "alias_of" not in openai_model(cold)
    assert openai_model(cold)["runtime"] is None
    plan = Plan(author="llm", trigger=Trigger.INGEST)
    made = Decision(id="d", at=1.0, plan=plan, snapshot_digest="x", trace={"snapshot": 1, "a": 2})
    assert decision_detail(made)["trace"] == {"a": 2}


# --- signatures ----------------------------------------------------------------------------------


def hooks(now: list[float]) -> Signatures:
    return Signatures(secret="s", window_s=100, now=lambda: now[0])


def refusal(all_: Signatures, at: str, body: bytes = b"") -> tuple[int, str, float | None] | None:
    signed = hmac.new(b"s", at.encode() + b"." + body, hashlib.sha256).hexdigest()
    try:
        all_.check(body, signature=f" SHA256={signed.upper()} ", timestamp=at)
    except HttpProblem as exc:
        return exc.status, str(exc), exc.retry_after_s
    return None


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (1100.4, "100 s old"),
        (899.4, "101 s ahead"),
        (1200.0, "200 s old"),
        (1100.0, None),
        (900.0, None),
    ],
)
def test_a_wrong_time_is_told_with_its_distance(now: float, said: str | None) -> None:
    found = refusal(hooks([now]), "1000")
    if said is None:
        assert found is None
    else:
        assert found is not None and found[0] == 401
        assert found[1].startswith(f"X-Modelium-Timestamp is {said}, more than the 100 s of ")


def test_what_was_seen_is_kept_until_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "MOST_SEEN", 2)
    now = [1000.0]
    all_ = hooks(now)
    assert refusal(all_, "950") is None
    assert refusal(all_, "1000") is None
    full = refusal(all_, "1001")
    assert full == (429, "more than 2 requests within ingest.webhook_window_seconds", 50.0)
    now[0] = 1050.0
    assert refusal(all_, "950") == (
        409,
        "this request was received before; sign each request anew",
        None,
    )
    assert refusal(all_, "1001") == (*full[:2], 0.0)
    now[0] = 1050.1
    assert refusal(all_, "1001") is None
    assert refusal(all_, "1000", b"x") == (*full[:2], pytest.approx(49.9))


@pytest.mark.parametrize(
    ("signature", "timestamp", "status"),
    [(None, "1000", 401), ("", "1000", 401), ("sha256=", None, 401), ("x", "1e3", 401)],
)
def test_what_is_not_signed_is_refused(
    signature: str | None, timestamp: str | None, status: int
) -> None:
    with pytest.raises(HttpProblem) as problem:
        hooks([1000.0]).check(b"", signature=signature, timestamp=timestamp)
    assert problem.value.status == status
