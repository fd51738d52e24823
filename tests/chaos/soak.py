"""Traffic, drops, evictions and faults for a long time: ``python -m tests.chaos.soak --minutes N``.

Memory, descriptors, threads and sizes are looked at every ten seconds. The table compares the
median of the first quarter with that of the last one: what leaks, grows.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import psutil

from bench.goals import Goal, print_goals
from tests.chaos.ground import Ground
from tests.chaos.table import FAULTS
from tests.chaos.trial import trial

EVERY_S = 10.0

HARMLESS = ("kill-engine", "pause-engine", "store-locked", "half-open", "slow-bodies")
"""Faults that leave the service's process alive: its memory is what is looked at."""

GROWTH = {
    "rss": 1.15,
    "descriptors": 1.25,
    "threads": 1.25,
    "store": 2.0,
    "logs": 3.0,
    "state": 2.0,
}
"""How many times the first quarter's median the last one's may be; files also grow with what
happened, up to their limits, so that they may grow more."""

FLOOR = {
    "rss": 2**24,
    "descriptors": 16,
    "threads": 8,
    "store": 2**22,
    "logs": 2**23,
    "state": 2**24,
}
"""Growth of so much is none: buffers, a pool's threads, a few rows."""

Sample = dict[str, int]


def sampled(ground: Ground) -> Sample:
    """Return bytes and counts of the service's process and of its files."""
    assert ground.service.process is not None
    process, state = psutil.Process(ground.service.process.pid), ground.service.state
    with process.oneshot():
        return {
            "rss": process.memory_info().rss,
            "descriptors": process.num_fds(),
            "threads": process.num_threads(),
            "store": _size(state.glob("modelium.db*")),
            "logs": _size(state.rglob("*.log*")),
            "state": _size(state.rglob("*")),
        }


def _size(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        try:
            stat = path.stat()
        except OSError:  # gone in between
            continue
        total += stat.st_size if path.is_file() else 0
    return total


def grown(samples: list[Sample], what: str) -> tuple[float, float]:
    """Return the medians of the first and of the last quarter."""
    quarter = max(1, len(samples) // 4)
    values = [sample[what] for sample in samples]
    return median(values[:quarter]), median(values[-quarter:])


def soak(minutes: float, seed: int) -> tuple[list[Sample], list[str]]:
    """Run for ``minutes``; return the samples and the violations."""
    ground, samples, wrong = Ground(seed), list[Sample](), list[str]()
    rng = random.Random(seed)
    try:
        ground.service.start()
        until = time.monotonic() + minutes * 60
        due = time.monotonic() + 20  # once everything is imported
        while time.monotonic() < until and not wrong:
            name = rng.choice(HARMLESS)
            outcome = trial(ground, name, FAULTS[name])
            wrong += [f"{name}: {sentence}" for sentence in outcome.violations]
            with ground.client.traffic(rng.randrange(2**32)):
                time.sleep(rng.uniform(0.0, 5.0))
            if ground.alive() and time.monotonic() >= due:
                samples.append(sampled(ground))
                due = time.monotonic() + EVERY_S
                print(samples[-1], flush=True)
    finally:
        ground.end()
    return samples, wrong


def main() -> int:
    """Print the table and the goals; return 1 where one was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # services are ended then, too
    samples, wrong = soak(given.minutes, given.seed)
    print("\n".join(wrong))
    goals = [Goal(name="soak-violations", measured=len(wrong), relation="≤", required=0)]
    print(f"\n{'':12} {'first quarter':>15} {'last quarter':>15}")
    for what, limit in GROWTH.items() if samples else ():
        first, last = grown(samples, what)
        print(f"{what:12} {first:15,.0f} {last:15,.0f}")
        growth = last / first if last - first > FLOOR[what] else min(1.0, last / max(first, 1))
        goals.append(
            Goal(name=f"soak-{what}-growth", measured=growth, relation="≤", required=limit)
        )
    print_goals(*goals)
    return 0 if samples and all(goal.met for goal in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
