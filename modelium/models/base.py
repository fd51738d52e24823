"""Names, units and the base of all values (no I/O here)."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""Names that are safe as folder, URL segment and metric label. No ``@``: it marks versions."""

ROW_NAME = MODEL_NAME.removesuffix("$") + r"(@[0-9]{1,9})?$"
"""A model's name, or that of its other version while they are switched: see `twin_name`."""

MIB, GIB = 1024**2, 1024**3

Api = Literal["openai", "kserve", "generic"]
"""An HTTP API of an engine, to which the gateway routes. ``generic``: engine-specific paths."""


def instance_name(model: str, version: int) -> str:
    """Return what a loaded version is called in its runtime: as its folder in the repository.

    Versions of a model have different names there, so that two can be loaded at once.
    """
    return model if version == 1 else f"{model}@{version}"


def twin_name(model: str, version: int) -> str:
    """Return what the other version of ``model`` is called while they are switched."""
    return f"{model}@{version}"


def base_name(name: str) -> str:
    """Return the model that an instance or a twin is a version of."""
    return name.partition("@")[0]


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
