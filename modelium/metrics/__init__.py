"""Modelium's metrics and their exporter; the only package that imports prometheus_client.

`Metrics` keeps counters and histograms. Gauges are collected from the last `Fleet` at each
scrape, so that a series ends when its model or device is gone.
"""

from modelium.metrics.counters import CONTENT_TYPE, Metrics
from modelium.metrics.exporter import Exporter
from modelium.metrics.families import device_labels

__all__ = ["CONTENT_TYPE", "Exporter", "Metrics", "device_labels"]
