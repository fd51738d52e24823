"""The six stages by name: what launchers and flows are given."""

from __future__ import annotations

from modelium.stages.analyze import analyze
from modelium.stages.decide import decide
from modelium.stages.evict import evict
from modelium.stages.ingest import ingest
from modelium.stages.inline import Stages
from modelium.stages.load import load
from modelium.stages.monitor import monitor

STAGES: Stages = {
    "ingest": ingest,
    "analyze": analyze,
    "decide": decide,
    "load": load,
    "monitor": monitor,
    "evict": evict,
}
