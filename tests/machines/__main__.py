"""All scenarios on three machines, or some: ``python -m tests.machines [--small | --scenario NAME …]``.

Exit code 1 where something was violated; the services' logs are kept then, and named.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import Counter

from bench.goals import Goal, print_goals
from tests.machines.fleet import Fleet, fleet
from tests.machines.scenarios import SCENARIOS, TAKEN_OVER_S
from tests.machines.trial import Outcome, trial

GROWTH_MIB = 100.0
"""By which a service may grow over all scenarios: caches fill, and a restart begins anew."""

GROWTH_FILES = 40
SHOWN = 12
"""Violations of one scenario that are printed."""


def main() -> int:
    """Print each scenario as it ends, and a table and the goals at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scenario", action="append", choices=[s.name for s in SCENARIOS])
    parser.add_argument("--small", action="store_true", help="the short form, on llama.cpp alone")
    parser.add_argument("--without-prefect", action="store_true")
    parser.add_argument("--without-triton", action="store_true")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # everything is ended then, too
    began = time.monotonic()
    # What is asked must have been dropped.
    names = ["drops", *given.scenario] if given.scenario else [s.name for s in SCENARIOS]
    wanted = [s for s in SCENARIOS if (s.small if given.small else s.name in names)]
    outcomes: list[Outcome] = []
    triton = not (given.without_triton or given.small)
    prefect = not (given.without_prefect or given.small)
    with fleet(triton=triton, prefect=prefect) as machines:
        print(f"three machines have joined in {time.monotonic() - began:.0f} s", flush=True)
        before = _sizes(machines)
        for scenario in wanted:
            outcome = trial(machines, scenario, seed=given.seed)
            outcomes.append(outcome)
            _say(outcome, machines)
            if scenario.name == "drops":
                before = _sizes(machines)
        after = _sizes(machines)
        left = machines.remains()
        for sentence in left:
            print(f"    left: {sentence}")
        failovers, looks = machines.observer.failovers, machines.observer.looks
    _table(outcomes)
    print(
        f"\n{len(outcomes)} scenarios in {time.monotonic() - began:.0f} s; the observer looked "
        f"{looks} times and saw {failovers} failovers"
    )
    return _goals(outcomes, left=len(left), before=before, after=after)


def _sizes(machines: Fleet) -> dict[str, tuple[float, int]]:
    """Return machine → MiB and open files of its service."""
    return {m.name: (m.rss_mib(), m.open_files()) for m in machines.machines.values()}


def _say(outcome: Outcome, machines: Fleet) -> None:
    print(f"{outcome.scenario}: {len(outcome.violations)} violations, {outcome.took_s:.0f} s")
    for sentence in outcome.violations[:SHOWN]:
        print(f"    {sentence}")
    if len(outcome.violations) > SHOWN:
        print(f"    … and {len(outcome.violations) - SHOWN} more")
    if outcome.violations:
        print(f"    logs: {machines.keep()}")
    sys.stdout.flush()


def _table(outcomes: list[Outcome]) -> None:
    columns = ("answered", "gone", "lost", "wrong")
    print(
        f"\n{'scenario':18} {'verdict':8}",
        *(f"{name:>8}" for name in columns),
        f"{'s':>5}  figures",
    )
    for outcome in outcomes:
        verdict = "held" if not outcome.violations else f"{len(outcome.violations)} wrong"
        counts = (f"{outcome.requests[name]:8}" for name in columns)
        figures = ", ".join(f"{name} {value:.1f}" for name, value in outcome.figures.items())
        print(f"{outcome.scenario:18} {verdict:8}", *counts, f"{outcome.took_s:5.0f}  {figures}")


def _goals(
    outcomes: list[Outcome],
    *,
    left: int,
    before: dict[str, tuple[float, int]],
    after: dict[str, tuple[float, int]],
) -> int:
    requests: Counter[str] = Counter()
    for outcome in outcomes:
        requests += outcome.requests
    wrong = sum(len(outcome.violations) for outcome in outcomes)
    failovers = [o.figures["failover_s"] for o in outcomes if "failover_s" in o.figures]
    grown = max(after[name][0] - before[name][0] for name in after)
    opened = max(after[name][1] - before[name][1] for name in after)

    def at_most(name: str, measured: float, required: float, unit: str = "") -> Goal:
        return Goal(name=name, measured=measured, relation="≤", required=required, unit=unit)

    goals = [
        at_most("machines-violations", wrong, 0),
        at_most("machines-requests-wrong", requests["wrong"], 0),
        at_most("machines-left-over", left, 0),
        at_most("machines-memory-growth", grown, GROWTH_MIB, "MiB"),
        at_most("machines-files-growth", opened, GROWTH_FILES),
    ]
    if failovers:
        goals.append(at_most("machines-failover", max(failovers), TAKEN_OVER_S, "s"))
    print_goals(*goals)
    return 0 if all(goal.met for goal in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
