"""Drops that are not, or not yet, models (no I/O here)."""

from __future__ import annotations

from enum import StrEnum

from modelium.models.base import Frozen


class DropState(StrEnum):
    """How far a drop has come."""

    ARRIVING = "arriving"
    """It has changed within the quiet period, or is about to be ingested."""
    INCOMPLETE = "incomplete"
    """The quiet period is over and something is missing; it is tried again when it changes."""
    REJECTED = "rejected"
    """It was refused, and is kept with the reason."""


class Drop(Frozen):
    """One folder, file or archive that is no model, and why."""

    name: str
    """Its own name, as in the folder where it lies."""
    model: str
    """The name that it would have as a model."""
    state: DropState
    path: str
    since: float
    """Epoch seconds: when it last changed or, if it was rejected, when that was."""
    rule: str = ""
    """The check that refused it, as a slug such as ``pickle``."""
    reason: str = ""
    """What is missing or why it was refused, with what to do; one line."""
    approvable: bool = False
    """Whether an operator may accept the risk that it was refused for."""
    digest: str = ""
    """Of its content, where that was read."""
    team: str | None = None
    """Whose it is; ``None``: an operator's, or not known."""

    def answers_to(self, name: str) -> bool:
        """Whether ``name`` is its own name or that of the model."""
        return name in (self.name, self.model)
