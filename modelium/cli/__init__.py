"""The command line. Exit codes: 0 done, 1 failed, 2 wrong input, 3 Modelium does not answer."""

from modelium.cli.main import main

__all__ = ["main"]
