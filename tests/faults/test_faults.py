"""Whatever fails wherever: in the end nothing is lost, doubled or stuck, and the goal is reached."""

from __future__ import annotations

import os

import pytest

from tests.faults.points import EDGES, Fault, Point
from tests.faults.scenarios import SCENARIOS
from tests.faults.survey import LIVES, failures, known, points, rehearsed

CHECKED = 16
"""`make check` tries every so many points one; what goes wrong at these is listed in ``open.tsv``.
What goes wrong takes ten times as long as what is survived: the shorter the list, the more."""

STRIDE = int(os.environ.get("FAULTS_STRIDE", CHECKED))
"""Every how many points one is tried; `make faults` tries all."""


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_it_is_survived(scenario: str, fault: Fault) -> None:
    listed = known().get((scenario, fault), {})

    found = list(failures(scenario, fault, stride=STRIDE))

    new = [f"{fault} at {f.point}: {f.said}" for f in found if f.kind not in listed]
    assert not new, "\n".join(new)
    mended = listed.keys() - {f.kind for f in found}
    assert not mended or STRIDE != CHECKED, f"mended; take out of open.tsv: {sorted(mended)}"
    if found:
        pytest.xfail("; ".join(sorted({listed[f.kind] for f in found})))


def test_what_is_known_to_go_wrong_can_happen() -> None:
    for scenario, fault in known().keys() - {LIVES}:
        assert scenario in SCENARIOS and Fault(fault)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_run_has_the_same_points_each_time(scenario: str) -> None:
    assert rehearsed.__wrapped__(scenario)[0] == points(scenario)


def test_every_edge_is_reached() -> None:
    found = {point.edge for scenario in SCENARIOS for point in points(scenario)}

    assert found == frozenset().union(*EDGES.values())
    assert Point("commit", "Store.register") in points("drop")
    assert Point("driver", "load") in points("drop")
