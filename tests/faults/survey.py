"""Which faults a scenario does not survive, and which of them are known."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.faults.points import EDGES, Fault, Point
from tests.faults.scenarios import SCENARIOS
from tests.faults.trial import rehearse, trial

OPEN = Path(__file__).with_name("open.tsv")
"""What is known to go wrong: scenario, fault, point, reason. It gets shorter."""

MEMORY = Path("/dev/shm")
"""Where trials are fast, where it is."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A fault that was not survived."""

    scenario: str
    fault: Fault
    point: str
    said: str


@functools.cache
def rehearsed(scenario: str) -> tuple[tuple[Point, ...], str]:
    """Return what `rehearse` does."""
    with _folder() as folder:
        points, said = rehearse(SCENARIOS[scenario], Path(folder))
        return points, said.replace(folder, "")


def points(scenario: str) -> tuple[Point, ...]:
    """Return the points of ``scenario``."""
    return rehearsed(scenario)[0]


def tried(scenario: str, fault: Fault, *, stride: int) -> list[int]:
    """Return the numbers of every ``stride``-th point at which ``fault`` can happen."""
    found = [n for n, point in enumerate(points(scenario)) if point.edge in EDGES[fault]]
    offset = (list(SCENARIOS).index(scenario) + list(Fault).index(fault)) % stride
    return found[min(offset, max(0, len(found) - 1)) :: stride]


def failures(scenario: str, fault: Fault, *, stride: int) -> Iterator[Failure]:
    """Yield what goes wrong."""
    if fault is Fault.NONE and (said := rehearsed(scenario)[1]):
        yield Failure(scenario, fault, "-", said)
    for number in tried(scenario, fault, stride=stride):
        with _folder() as folder:
            said = trial(SCENARIOS[scenario], Path(folder), fault=fault, number=number)
            said = said.replace(folder, "")
        if said:
            yield Failure(scenario, fault, points(scenario)[number].name, said)


def known() -> dict[tuple[str, str], dict[str, str]]:
    """Return point → reason of what `OPEN` lists, by scenario and fault."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for line in OPEN.read_text().splitlines():
        scenario, fault, point, reason = line.split("\t")
        found.setdefault((scenario, fault), {})[point] = reason
    return found


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(
        prefix="modelium-faults-", dir=MEMORY if MEMORY.is_dir() else None
    )
