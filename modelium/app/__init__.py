"""The composition root: the one place that wires agents, runtimes and flows into the core."""

from modelium.app.service import Running, end, running

__all__ = ["Running", "end", "running"]
