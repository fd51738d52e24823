"""Statistics of the requests to each model: rates, latencies, daily patterns (no I/O here)."""

from modelium.traffic.book import TrafficBook
from modelium.traffic.request_log import RequestLog

__all__ = ["RequestLog", "TrafficBook"]
