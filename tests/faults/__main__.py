"""Every fault at every point, as a table: ``python -m tests.faults [SCENARIO [FAULT …]]``.

``--every 16`` tries one of 16 points, as `make check` does; ``--write`` lists what goes wrong
there as known, with the reasons that are listed already.
"""

from __future__ import annotations

import argparse
import logging
import sys

from tests.faults.points import Fault
from tests.faults.scenarios import SCENARIOS
from tests.faults.survey import OPEN, failures, known, tried


def main() -> int:
    """Print scenario × fault, and what was not survived; return 1 where something new was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", nargs="?", choices=list(SCENARIOS))
    parser.add_argument("fault", nargs="*", type=Fault)
    parser.add_argument("--every", type=int, default=1, choices=range(1, 1001), metavar="N")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    listed, new = known(), 0
    for scenario in [given.scenario] if given.scenario else SCENARIOS:
        for fault in given.fault or Fault:
            found = list(failures(scenario, fault, stride=given.every))
            count = len(tried(scenario, fault, stride=given.every))
            print(
                f"{scenario:30} {fault:12} {count:4} points, {len(found):3} not survived",
                flush=True,
            )
            before = listed.pop((scenario, fault), {})
            for failure in found:
                new += failure.kind not in before
                print(f"    {failure.point}: {failure.said}")
            now = {f.kind: before.get(f.kind, f"open, at {f.point}") for f in reversed(found)}
            if now:
                listed[(scenario, fault)] = now if given.write else before
    if given.write:
        lines = (
            "\t".join((*key, kind, reason)) + "\n"
            for key, kinds in sorted(listed.items())
            for kind, reason in sorted(kinds.items())
        )
        OPEN.write_text("".join(lines))
    return 1 if new and not given.write else 0


if __name__ == "__main__":
    sys.exit(main())
