"""The traffic of one model at several gateways as one (no I/O here)."""

from __future__ import annotations

from collections.abc import Sequence

from modelium.models import Traffic


def merged(parts: Sequence[Traffic]) -> Traffic:
    """Return the sum of ``parts``, each of one gateway; no request is in two of them."""
    if len(parts) == 1:
        return parts[0]
    most = max(parts, key=lambda part: part.last_request_at or 0.0)
    return most.model_copy(
        update={
            "in_flight": sum(part.in_flight for part in parts),
            "pending": sum(part.pending for part in parts),
            "completed": sum(part.completed for part in parts),
            "failed": sum(part.failed for part in parts),
            "direct": sum(part.direct for part in parts),
            "qps": sum(part.qps for part in parts),
            "qps_last_hour": sum(part.qps_last_hour for part in parts),
        }
    )
