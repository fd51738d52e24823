"""Names, units and the base of all values (no I/O here)."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""Names that are safe as folder, URL segment and metric label. No ``@``: it marks versions."""

GIB = 1024**3

Api = Literal["openai", "kserve", "generic"]
"""An HTTP API of an engine, to which the gateway routes. ``generic``: engine-specific paths."""


class Frozen(BaseModel):
    """An immutable value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RuntimeName(StrEnum):
    """The serving runtimes."""

    VLLM = "vllm"
    TRITON = "triton"
    RAY_SERVE = "ray_serve"
    LLAMA_CPP = "llama_cpp"


class Priority(StrEnum):
    """Priority class: production with known traffic, important teams, experimental."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"

    @property
    def rank(self) -> int:
        """The position of the class; 0 is the most important."""
        return {"high": 0, "medium": 1, "low": 2}[self.value]
