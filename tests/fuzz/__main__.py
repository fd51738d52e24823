"""``make fuzz``: every target for a while, each in a process of its own; ends at the first finding.

``python -m tests.fuzz [SECONDS] [TARGET …]``; 120 seconds for each target by default.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.targets import TARGETS


def main() -> int:
    """Run the fuzzers; the number of targets with findings."""
    arguments = sys.argv[1:]
    seconds = int(arguments.pop(0)) if arguments and arguments[0].isdigit() else 120
    findings = 0
    for name in arguments or sorted(TARGETS):
        folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
        print(f"== {name}: {seconds} s, corpus and findings in {folder}", flush=True)
        done = subprocess.run(
            [
                sys.executable, "-m", "tests.fuzz.fuzz_headers", name, str(folder / "corpus"),
                f"-max_total_time={seconds}", "-max_len=65536",
                "-timeout=30", f"-artifact_prefix={folder}/", "-verbosity=1",
            ],
        )  # fmt: skip
        findings += done.returncode != 0
    return findings


if __name__ == "__main__":
    sys.exit(main())
