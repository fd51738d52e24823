"""The gauges of teams."""

from __future__ import annotations

from modelium.lifecycle import ModelState
from modelium.models import GIB, Booking, Traffic
from tests.modelium.metrics.conftest import at, gpu, model, shown


def test_a_team_has_the_sums_of_its_models() -> None:
    device = gpu(0)
    series = shown(
        model("a", device, traffic=Traffic(qps=1.5), team="lab"),
        model("b", device, traffic=Traffic(qps=0.25), team="lab"),
        model("q", team="lab", state=ModelState.QUEUED),
        model("p", team="prod"),
        model("n", device, traffic=Traffic(qps=9.0)),
        devices=(device,),
        bookings=tuple(
            Booking(model=name, device=device.id, bytes=size * GIB)
            for name, size in (("a", 2), ("b", 3), ("n", 4))
        ),
        used={"lab": 12.5, "": 7.0, "gone": 3.0},
    )
    assert series["modelium_team_models"] == {
        at(team="lab", state="ready"): 2,
        at(team="lab", state="queued"): 1,
        at(team="prod", state="unloaded"): 1,
    }
    assert series["modelium_team_qps"] == {
        at(team="lab"): 1.75,
        at(team="prod"): 0.0,
        at(team="gone"): 0.0,
    }
    assert series["modelium_team_memory_booked_bytes"] == {
        at(team="lab"): 5 * GIB,
        at(team="prod"): 0,
        at(team="gone"): 0,
    }
    assert series["modelium_team_gpu_seconds"] == {at(team="lab"): 12.5, at(team="gone"): 3.0}


def test_without_teams_there_are_none() -> None:
    series = shown(model("n"))
    assert not [name for name in series if name.startswith("modelium_team")]
