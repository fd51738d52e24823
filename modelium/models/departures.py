"""Departures of an LLM from the plan of the rules, and their price (no I/O here)."""

from __future__ import annotations

from enum import StrEnum

from modelium.models.base import Frozen


class DepartureKind(StrEnum):
    """What an LLM may do otherwise than the rules, where `brain.may` allows it."""

    QUEUE = "queue"
    """A model that the rules would load waits."""
    DEVICE = "device"
    """A model is loaded on other devices than the rules would take."""
    EVICT = "evict"
    """A model is evicted that the rules would keep, for another one's load."""
    SPARE = "spare"
    """A model stays that the rules would unload for idling, or for a load that no request needs."""


class Departure(Frozen):
    """One departure, part of a plan and then stored with its decision."""

    kind: DepartureKind
    model: str
    """The model that waits, is loaded elsewhere, is evicted, or stays."""
    beneficiary: str = ""
    """The model that an eviction makes room for."""
    shadow: bool = False
    """It is only recorded and judged: the rules' plan was carried out. See
    `modelium.policy.departures.is_trusted`."""
    price_s: float
    """Load-seconds that it gives up at most: one load of each model that has to be loaded again,
    or later."""
    until: float
    """Seconds since the epoch. Until then the rules respect it, and it is judged by what was
    requested."""
    right_if: tuple[str, ...] = ()
    """Models of which one has to be asked for by ``until``; without any, it cannot be right."""
    wrong_if: tuple[str, ...] = ()
    """Models of which none may be asked for by ``until``."""
    at: float = 0.0
    """When it was accepted; 0: it is not yet."""
    asked_at: float | None = None
    """When one of ``wrong_if`` was first asked for; ``None``: none has been by ``seen_until``."""
    needed_at: float | None = None
    """When one of ``right_if`` was first asked for; ``None``: none has been by ``seen_until``."""
    seen_until: float = 0.0
    """Up to when requests were noted without a pause, at most ``until``."""
