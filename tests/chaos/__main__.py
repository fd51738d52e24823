"""Faults × seeds: ``python -m tests.chaos --seeds N [--first K] [--fault NAME …]``.

Exit code 1 where an invariant did not hold. Each violation comes with the command that repeats
its trial: what happens when is drawn from the seed alone, how fast the machine is, is not.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator

from bench.goals import Goal, print_goals
from tests.chaos.ground import Ground
from tests.chaos.table import FAULTS, SERVERS, SERVERS_EVERY
from tests.chaos.trial import Outcome, trial


def outcomes(seed: int, faults: list[str], *, keep: bool = False) -> Iterator[Outcome]:
    """Try ``faults``, one after another, on one service as long as it survives them.

    Those of servers beside it get a service each. ``keep``: the files of what went wrong.
    """
    ground: Ground | None = None
    wrong = False
    try:
        for name in faults:
            fault, settings = SERVERS.get(name) or (FAULTS[name], None)
            if ground is not None and (wrong or settings):  # a violation would show again
                ground.end(keep=keep and wrong)
                ground = None
            if ground is None:
                ground = Ground(seed, settings=settings)
                ground.service.start()
            outcome = trial(ground, name, fault)
            wrong = bool(outcome.violations)
            yield outcome
    finally:
        if ground is not None:
            ground.end(keep=keep and wrong)


def chosen(seed: int) -> list[str]:
    """Return the faults that are tried with ``seed`` where none is asked for."""
    return [*FAULTS, *(SERVERS if seed % SERVERS_EVERY == 0 else ())]


def main() -> int:
    """Print what was violated as it is found, and a table at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--fault", action="append", choices=[*FAULTS, *SERVERS])
    parser.add_argument("--keep", action="store_true", help="keep the files of failed trials")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # services are ended then, too
    began, seen = time.monotonic(), defaultdict[str, list[Outcome]](list)
    for seed in range(given.first, given.first + given.seeds):
        for outcome in outcomes(seed, given.fault or chosen(seed), keep=given.keep):
            seen[outcome.fault].append(outcome)
            _say(outcome)
    print(f"\n{'fault':18} {'seeds':>5} {'missed':>6} {'violations':>10} {'s each':>7}")
    for name, tried in seen.items():
        wrong = sum(len(o.violations) for o in tried)
        missed, took = sum(not o.tried for o in tried), sum(o.took_s for o in tried) / len(tried)
        print(f"{name:18} {len(tried):5} {missed:6} {wrong:10} {took:7.1f}")
    wrong = sum(len(o.violations) for tried in seen.values() for o in tried)
    print(f"\n{given.seeds} seeds in {time.monotonic() - began:.0f} s")
    print_goals(Goal(name="chaos-violations", measured=wrong, relation="≤", required=0))
    return 1 if wrong else 0


def _say(outcome: Outcome) -> None:
    about = f"{outcome.fault}, seed {outcome.seed}"
    print(f"{about}: {len(outcome.violations)} violations, {outcome.took_s:.0f} s", flush=True)
    for sentence in outcome.violations:
        print(f"    {sentence}")
    if outcome.violations:
        again = f"--fault {outcome.fault} --first {outcome.seed} --seeds 1"
        print(f"    again: python -m tests.chaos {again}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
