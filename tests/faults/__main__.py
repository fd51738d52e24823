"""Every fault at every point, as a table: ``python -m tests.faults [SCENARIO [FAULT]]``.

``--write`` replaces the list of what is known to go wrong.
"""

from __future__ import annotations

import logging
import sys

from tests.faults.points import Fault
from tests.faults.scenarios import SCENARIOS
from tests.faults.survey import OPEN, failures, known, tried


def main(arguments: list[str]) -> int:
    """Print scenario × fault, and what was not survived; return 1 where something new was."""
    logging.disable(logging.CRITICAL)
    write = "--write" in arguments
    chosen = [each for each in arguments if each != "--write"]
    scenarios, faults = chosen[:1] or list(SCENARIOS), [Fault(f) for f in chosen[1:]] or list(Fault)
    lines, new, reasons = [], 0, known()
    for scenario in scenarios:
        for fault in faults:
            found = list(failures(scenario, fault, stride=1))
            count = len(tried(scenario, fault, stride=1))
            print(
                f"{scenario:32} {fault:12} {count:4} points, {len(found)} not survived", flush=True
            )
            before = reasons.get((scenario, fault), {})
            for failure in found:
                new += failure.point not in before
                print(f"    {failure.point}: {failure.said}")
                reason = before.get(failure.point, failure.said[:100])
                lines.append("\t".join((scenario, fault, failure.point, reason)))
    if write:
        OPEN.write_text("".join(f"{line}\n" for line in lines))
    return 1 if new and not write else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
