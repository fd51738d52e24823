"""An advisor's hints to the rules: they influence a plan, within what is legal (no I/O here)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from modelium.models import Fleet, Frozen, Preference, Priority, Trigger

ADVISED = frozenset({Trigger.INGEST, Trigger.REVIEW})
"""Triggers whose decisions may take seconds, as no request waits for them."""


class Spot(Frozen):
    """Where a model is to be loaded."""

    devices: tuple[str, ...]
    evicts: tuple[str, ...] = ()
    """Models that may be evicted for it, where they can be evicted at all."""


class Advice(Frozen):
    """Hints for the rules. A hint that cannot be followed is ignored.

    With a ``fallback``, all hints are empty and the rules decide alone.
    """

    author: str = "llm"
    priorities: dict[str, Priority] = Field(default_factory=dict)
    """Model → class; the operator's ceiling still applies."""
    preferences: dict[str, Preference] = Field(default_factory=dict)
    """Model → runtime and settings."""
    keep: tuple[str, ...] = ()
    """Loaded models to keep if another one of about the same value can be evicted instead."""
    evict: tuple[str, ...] = ()
    """Loaded models to evict first among those of about the same value."""
    order: tuple[str, ...] = ()
    """Queued models in the order to load them, within each priority class."""
    prewarm: tuple[str, ...] = ()
    """Unloaded models to load into memory that no other model needs."""
    hold: tuple[str, ...] = ()
    """Models to leave in the queue although they could be loaded, unless requests wait for them."""
    spare: tuple[str, ...] = ()
    """Loaded models not to unload for idling, nor for a load that no request waits for."""
    spots: dict[str, Spot] = Field(default_factory=dict)
    """Model → the devices to load it on, and the models that may be evicted for it."""
    reason: str = ""
    """The advisor's explanation; untrusted text."""
    fallback: str = ""
    """Why there is no advice: a slug, then ``: `` and the detail."""
    trace: dict[str, Any] = Field(default_factory=dict)
    """How the advice was made (JSON values), for `Decision.trace`."""


RULES_ALONE = Advice(author="rules")
"""No hints: the rules decide."""


def advised(fleet: Fleet, advice: Advice) -> Fleet:
    """Return ``fleet`` with the priorities and preferences of ``advice`` in its models."""
    if not advice.priorities and not advice.preferences:
        return fleet
    models = tuple(
        model.model_copy(
            update={
                "priority": advice.priorities.get(model.name, model.priority),
                "preference": advice.preferences.get(model.name, model.preference),
            }
        )
        for model in fleet.models
    )
    # Not `model_copy`, which would also copy the cached look-ups of the old models.
    return Fleet(
        at=fleet.at,
        revision=fleet.revision,
        devices=fleet.devices,
        models=models,
        bookings=fleet.bookings,
        runtimes=fleet.runtimes,
        nodes=fleet.nodes,
        files=fleet.files,
        used=fleet.used,
        class_failures=fleet.class_failures,
        departures=fleet.departures,
    )
