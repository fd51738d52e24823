"""The six flows by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect import Flow

from flows.analyze import analyze
from flows.decide import decide
from flows.evict import evict
from flows.ingest import ingest
from flows.load import load
from flows.monitor import monitor
from modelium.ports import Stage

FLOWS: Mapping[Stage, Flow[..., Any]] = {
    "ingest": ingest,
    "analyze": analyze,
    "decide": decide,
    "load": load,
    "monitor": monitor,
    "evict": evict,
}
