"""Each phase of a load is timed from its first report to the next phase."""

from __future__ import annotations

import pytest

from modelium.stages.load_phases import Phases
from tests.fakes.clock import FakeClock
from tests.modelium.conftest import World


class Timings:
    """Phases that ended, and how long each took."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, float]] = []

    def __call__(self, phase: str, /, *, seconds: float) -> None:
        self.ended.append((phase, round(seconds, 3)))


def test_phases_end_one_after_the_other() -> None:
    clock, timings = FakeClock(), Timings()
    phases = Phases(clock=clock, on_end=timings)
    clock.advance(100)
    with phases:
        clock.advance(1)
        phases.begin("starting")
        clock.advance(2)
        phases.begin("starting")
        clock.advance(3)
        phases.begin("loading weights")
        clock.advance(4)
    assert timings.ended == [("asked", 1), ("starting", 5), ("loading weights", 4)]


def test_a_failure_ends_the_last_phase() -> None:
    clock, timings = FakeClock(), Timings()
    phases = Phases(clock=clock, on_end=timings)
    with pytest.raises(ValueError, match="no"), phases:
        clock.advance(1)
        raise ValueError("no")
    assert timings.ended == [("asked", 1)]


async def test_loads_are_timed_by_phase(world: World) -> None:
    await world.load()
    shown = world.exposed()
    for phase in ("asked", "starting", "loading-weights"):
        name = "modelium_load_phase_seconds_count"
        assert f'{name}{{phase="{phase}",runtime="ray_serve"}} 1.0' in shown
