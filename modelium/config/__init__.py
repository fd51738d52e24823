"""The configuration: its schema, how a file and the environment become one, and its reference.

Only `modelium.config.loading` reads a file.
"""

from modelium.config.runtimes import LlamaCpp, RayServe, Settings, Triton, Vllm
from modelium.config.schema import Config
from modelium.config.sections import (
    BrainSection,
    Gateway,
    Ingest,
    Metrics,
    ModelEntry,
    Orchestration,
    Policies,
    Prefect,
    StoreSection,
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
