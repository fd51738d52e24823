"""The command line.

`modelium.cli.output` defines the exit codes and how results are printed, `modelium.cli.options`
the shared options, `modelium.cli.tables` every table.
"""

from modelium.cli.main import main

__all__ = ["main"]
