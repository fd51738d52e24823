"""The six flows by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
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


def keeping_results_in(folder: Path) -> Mapping[Stage, Flow[..., Any]]:
    """The flows, told where results would go: Prefect asks its server in every run otherwise.

    Nothing is written there, since none of them persists its result.
    """
    return {
        stage: flow.with_options(result_storage=folder, persist_result=False)
        for stage, flow in FLOWS.items()
    }
