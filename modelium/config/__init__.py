"""The configuration: its sections, how file and environment are read, and its reference.

Only `modelium.config.loading` reads files, and only `modelium.config.hosts` opens sockets.
"""

from modelium.config.schema import Config
from modelium.config.sections import (
    BrainSection,
    Gateway,
    Ingest,
    LlamaCpp,
    Metrics,
    ModelEntry,
    Orchestration,
    Policies,
    Prefect,
    RayServe,
    Settings,
    StoreSection,
    Triton,
    Vllm,
)

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
