"""Start the command line where our packages are really ours."""

from __future__ import annotations

import sys


def main() -> None:
    """Run a command; name the distribution in the way if our own modules cannot be imported."""
    try:
        from modelium.cli.main import main as run
    except ImportError:
        from modelium.cli.shadows import shadows

        found = list(shadows())
        if not found:
            raise
        sys.exit("error: " + "\n".join(found))
    run()
