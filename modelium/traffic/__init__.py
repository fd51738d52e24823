"""What requests each model gets: windows, daily patterns, engine counters (no I/O here)."""

from modelium.traffic.book import TrafficBook
from modelium.traffic.request_log import RequestLog

__all__ = ["RequestLog", "TrafficBook"]
