"""``python -m modelium``."""

from modelium.cli import main

main()
