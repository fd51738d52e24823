"""The command line.

`modelium.cli.entry` starts it, `modelium.cli.output` defines the exit codes and how results are
printed, `modelium.cli.options` the shared options, `modelium.cli.tables` every table.
"""
