"""``python -m modelium``."""

from modelium.cli.entry import main

main()
