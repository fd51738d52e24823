"""The configuration: its sections, how file and environment are read, and its reference.

Only `modelium.config.loading` reads files, and only `modelium.config.hosts` opens sockets.
"""

from modelium.config.schema import Config
from modelium.config.sections.brain import BrainSection
from modelium.config.sections.gateway import Gateway
from modelium.config.sections.ingest import Ingest
from modelium.config.sections.models import ModelEntry
from modelium.config.sections.orchestration import Metrics, Orchestration, Policies
from modelium.config.sections.prefect import Prefect
from modelium.config.sections.runtimes import LlamaCpp, RayServe, Settings, Triton, Vllm
from modelium.config.sections.store import StoreSection

__all__ = [
    "BrainSection",
    "Config",
    "Gateway",
    "Ingest",
    "LlamaCpp",
    "Metrics",
    "ModelEntry",
    "Orchestration",
    "Policies",
    "Prefect",
    "RayServe",
    "Settings",
    "StoreSection",
    "Triton",
    "Vllm",
]
