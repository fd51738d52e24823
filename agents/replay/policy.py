"""What a replay asks of a policy, and what the policy may know of the simulated devices (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agents.replay.traces import ReplayModel


class DevicePool(Protocol):
    """The simulated devices, as a policy sees them. Models and devices are indices."""

    models: Sequence[ReplayModel]

    def free(self, device: int) -> int:
        """Return the free bytes of ``device``."""

    def capacities(self) -> Sequence[int]:
        """Return the bytes of each device."""

    def idle_on(self, device: int) -> Sequence[int]:
        """Return the models on ``device`` that may be evicted now."""

    def idle(self) -> Sequence[int]:
        """Return the models on any device that may be evicted now."""

    def loaded(self) -> Sequence[int]:
        """Return the models that hold memory, including those still loading."""

    def devices_of(self, model: int) -> tuple[int, ...]:
        """Return the devices of ``model``; empty where it is not loaded."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The devices that a model is loaded on, and the models evicted for it."""

    devices: tuple[int, ...]
    evicts: tuple[int, ...] = ()


class ReplayPolicy(Protocol):
    """Decides where models are loaded and which are evicted. ``now``: seconds of the trace."""

    name: str
    ttl_s: float
    """No model expires before this many idle seconds."""
    sweep_s: float
    """Seconds between two calls of `prewarm`; infinite: never called."""

    def on_arrival(self, model: int, now: float) -> None:
        """Take note of a request."""

    def expired(self, model: int, idle_s: float, now: float, pool: DevicePool) -> bool:
        """Whether ``model``, idle for ``idle_s``, is unloaded without need for its memory."""

    def choose(self, model: int, now: float, pool: DevicePool) -> Assignment | None:
        """Return where to load ``model``; ``None`` where it has to wait."""

    def rank(self, waiting: Sequence[int], now: float, pool: DevicePool) -> Sequence[int]:
        """Return the models that wait for memory, the first to load first."""

    def prewarm(self, now: float, pool: DevicePool) -> Sequence[tuple[int, Assignment]]:
        """Return models to load ahead of requests; the rules evict nothing for them."""


def split_degree(size: int, capacities: Sequence[int]) -> int | None:
    """Return over how many devices (1, 2, 4 …) to split ``size`` bytes; ``None``: too large."""
    degree = 1
    while degree <= len(capacities):
        if sum(1 for c in capacities if c >= -(-size // degree)) >= degree:
            return degree
        degree *= 2
    return None
