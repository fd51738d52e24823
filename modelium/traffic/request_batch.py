"""What a worker has counted of one model's requests in a moment (no I/O here)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class RequestBatch(NamedTuple):
    """Sums; the order of what was counted matters to nothing but ``peak``."""

    arrived: int
    started: int
    """Requests that were forwarded to an engine."""
    failed: int
    """Requests that ended without an answer, or with a server's error."""
    latencies: Sequence[float]
    """Seconds at the engine of each of the others that ended."""
    peak: int
    """How many more were in flight at once than before the batch; at least 0."""
