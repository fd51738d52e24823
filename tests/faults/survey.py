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
"""What is known to go wrong: scenario, fault, kind, reason. It gets shorter."""

KINDS = (
    "is lost",
    "places",
    "are booked",
    "memory booked",
    "is left of",
    "not registered",
    "is still loading",
    "is still draining",
    "is still unloading",
    "is still to be removed",
    "is still ingested",
    "which is not deployed",
    "is deployed",
    "decision",
    "the request to",
    "not reached",
)
"""Parts of sentences, the worst first; the first that is found in what is said is its kind."""

MEMORY = Path("/dev/shm")
"""Where trials are fast, where it is."""


LIVES = ("lives", "any")
"""Where `OPEN` lists what goes wrong in the lives of ``test_lives.py``."""


def kind_of(said: str) -> str:
    """Return the kind of what is said; see `KINDS`."""
    return next((kind for kind in KINDS if kind in said), said)


@dataclass(frozen=True, slots=True)
class Failure:
    """A fault that was not survived."""

    scenario: str
    fault: Fault
    point: str
    said: str

    @property
    def kind(self) -> str:
        """What kind of thing went wrong; see `KINDS`."""
        return kind_of(self.said)


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
    """Return kind → reason of what `OPEN` lists, by scenario and fault."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for line in OPEN.read_text().splitlines():
        scenario, fault, kind, reason = line.split("\t")
        found.setdefault((scenario, fault), {})[kind] = reason
    return found


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(
        prefix="modelium-faults-", dir=MEMORY if MEMORY.is_dir() else None
    )
