"""The machines that share a store (no I/O here)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from modelium.models.base import Frozen, RuntimeName
from modelium.models.devices import Device, RuntimeStatus

NodeState = Literal["active", "cordoned", "draining"]
"""``cordoned``: nothing new is loaded there; ``draining``: what it has is also moved away."""

SECRET_PREFIX = "mdn_"  # noqa: S105 - what secrets of nodes begin with

SILENT_S = 15.0
"""A node whose last heartbeat is older is silent: what it holds is unknown, and stays booked."""


FENCED_S = 10.0
"""Without a heartbeat for this long a node begins nothing, and nothing is placed there: a third
less than the time after which others may take its models over."""


class NodeReport(Frozen):
    """What a node says of itself with each heartbeat."""

    address: str | None = None
    """URL of its gateway for other nodes; ``None``: it serves its own clients only."""
    version: str = ""
    """Of Modelium."""
    labels: dict[str, str] = Field(default_factory=dict)
    devices: tuple[Device, ...] = ()
    runtimes: tuple[RuntimeStatus, ...] = ()
    fetches: bool = False
    """Whether it fetches the files of a model from nodes that have them."""
    shares: bool = False
    """Whether its model repository is a mount that other nodes have, too."""
    fetch_bytes_per_s: float | None = None
    """At which it last fetched files, or may; ``None``: not known."""
    activity: str = ""
    """What it does, in one line; empty: nothing but serving."""
    settled: bool = True
    """Whether it has compared the store with its engines since it started."""


class Node(Frozen):
    """One machine of the fleet, as its last heartbeat and the operator left it."""

    name: str
    state: NodeState = "active"
    silent_s: float = 0.0
    """Seconds since its last heartbeat, by the database's clock."""
    plans: bool = False
    """Whether it holds the planner's lease."""
    strays: int = 0
    """Engines that it may still run of models which were loaded elsewhere while it was silent."""
    report: NodeReport = NodeReport()

    @property
    def silent(self) -> bool:
        """Whether nobody knows what it does."""
        return self.silent_s > SILENT_S

    @property
    def placeable(self) -> bool:
        """Whether models may be loaded there."""
        settled = self.report.settled and not self.strays
        return self.state == "active" and self.silent_s <= FENCED_S and settled

    def runtime(self, name: RuntimeName) -> RuntimeStatus | None:
        """Return the state of one of its runtimes; ``None``: it has none of that name."""
        return next((status for status in self.report.runtimes if status.name is name), None)
