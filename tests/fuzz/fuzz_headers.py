"""Fuzz one parser: ``python -m tests.fuzz.fuzz_headers TARGET [CORPUS] [-…]``.

``make fuzz`` runs every target for minutes; the suite runs each for some thousand inputs.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["modelium.analysis"]):
    from tests.fuzz.targets import TARGETS, seeds

MEMORY = 2**30
"""Bytes of data beyond what the imports take. libFuzzer's own limit does not do: the peak that
it reads starts at that of the process which started it."""


def main() -> None:
    """Hand over to libFuzzer; it exits the process, non-zero with a finding."""
    name = sys.argv[1]
    target = TARGETS[name]
    corpus = [argument for argument in sys.argv[2:] if not argument.startswith("-")]
    if corpus:
        folder = Path(corpus[0])
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds(name)):
            (folder / f"seed-{number}").write_bytes(seed)
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))
    atheris.Setup([sys.argv[0], "-rss_limit_mb=0", *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
