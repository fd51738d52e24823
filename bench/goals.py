"""The last lines of a benchmark: one per goal of docs/benchmarks.md, whether met or missed."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Literal

_HOLDS = {"≤": operator.le, "≥": operator.ge, "<": operator.lt}


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A limit for one figure."""

    name: str
    """Without spaces, so that the line can be split at them."""
    measured: float
    relation: Literal["≤", "≥", "<"]
    required: float
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether the measured value is within the limit."""
        return bool(_HOLDS[self.relation](self.measured, self.required))

    def __str__(self) -> str:
        """Return ``goal: NAME MEASURED REQUIRED met|missed``."""
        measured = f"{self.measured:.4g}{self.unit}"
        required = f"{self.relation}{self.required:g}{self.unit}"
        return f"goal: {self.name} {measured} {required} {'met' if self.met else 'missed'}"


def print_goals(*goals: Goal) -> None:
    """Print a line for each goal."""
    for goal in goals:
        print(goal, flush=True)
