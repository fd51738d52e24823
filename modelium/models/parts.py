"""The parts of a model that is loaded over several nodes (no I/O here)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from modelium.errors import FailureKind
from modelium.models.base import Frozen
from modelium.models.fleet import Deployment

PartState = Literal["wanted", "prepared", "running", "failed", "ending"]
"""The node that answers for the model orders ``wanted`` and ``ending``. The part's own node reports
``prepared`` (the files are there, the engine is started), ``running`` and ``failed``. A part that
has ended has no row."""


class Part(Frozen):
    """What one node runs of a model that another node answers for."""

    id: str
    """Of this attempt: a later one has another."""
    node: str
    state: PartState = "wanted"
    deployment: Deployment
    """What it is a part of; its rank is the place of ``node`` among the nodes of this."""
    addresses: tuple[str, ...]
    """Of the nodes for one another, by rank."""
    port: int
    """Where the parts meet, on the first node."""
    handle: dict[str, Any] = Field(default_factory=dict)
    """The driver's notes on this part."""
    kind: FailureKind = FailureKind.UNKNOWN
    detail: str = ""
    """Why it failed."""

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.deployment.model

    @property
    def rank(self) -> int:
        """Its place among the parts; the one with rank 0 has no row."""
        return self.deployment.nodes.index(self.node)
