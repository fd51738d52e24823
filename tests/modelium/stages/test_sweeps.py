"""The loop's last sweep is remembered for as long as it is recent."""

from __future__ import annotations

from modelium.models import Report
from modelium.stages.sweeps import Sweep, Sweeps

REPORT = Report(stage="decide", outcome="nothing")


def test_there_is_no_sweep_at_first() -> None:
    assert Sweeps().since(0.0) is None


def test_a_sweep_counts_from_its_instant_on() -> None:
    sweeps = Sweeps()
    sweeps.note(Sweep(at=10.0, report=REPORT))
    assert sweeps.since(10.0) is REPORT
    assert sweeps.since(10.1) is None


def test_only_the_last_sweep_is_remembered() -> None:
    sweeps = Sweeps()
    sweeps.note(Sweep(at=10.0, report=REPORT))
    later = Report(stage="decide", outcome="planned")
    sweeps.note(Sweep(at=20.0, report=later))
    assert sweeps.since(5.0) is later
