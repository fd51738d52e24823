"""Modelium's metrics, and the exporter on the seed's ``prometheus_port``.

The only imports of prometheus_client. Counters are kept by `Metrics`; gauges are rendered from
the last `Fleet` at each scrape, so a series ends with what it is about.
"""

from modelium.metrics.counters import CONTENT_TYPE, Metrics
from modelium.metrics.exporter import Exporter
from modelium.metrics.families import device_labels

__all__ = ["CONTENT_TYPE", "Exporter", "Metrics", "device_labels"]
