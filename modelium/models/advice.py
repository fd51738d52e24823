"""What an advisor adds to the rules: wishes that bend a plan and cannot break it (no I/O here)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from modelium.models import Fleet, Frozen, Preference, Priority, Trigger

ADVISED = frozenset({Trigger.INGEST, Trigger.REVIEW})
"""What seconds may be spent on: nobody waits for it. A request never waits for an advisor."""


class Advice(Frozen):
    """Wishes within which the rules plan. Each is a hint: what does not fit is left out.

    An advice with a ``fallback`` carries no wishes: the rules answer alone, for that reason.
    """

    author: str = "llm"
    priorities: dict[str, Priority] = Field(default_factory=dict)
    """Model → class; never above the operator's ceiling."""
    preferences: dict[str, Preference] = Field(default_factory=dict)
    """Model → runtime and settings."""
    keep: tuple[str, ...] = ()
    """Loaded models to spare where another one is worth about as little."""
    evict: tuple[str, ...] = ()
    """Loaded models that go first among those of about the same worth."""
    order: tuple[str, ...] = ()
    """Queued models, first one first; holds within a priority class."""
    prewarm: tuple[str, ...] = ()
    """Unloaded models to load into memory that nobody else wants."""
    reason: str = ""
    """In the advisor's words; untrusted text."""
    fallback: str = ""
    """Why there is none: a slug, then ``: `` and the detail."""
    trace: dict[str, Any] = Field(default_factory=dict)
    """How it came about (JSON values), for `Decision.trace`."""


RULES_ALONE = Advice(author="rules")
"""No wishes."""


def advised(fleet: Fleet, advice: Advice) -> Fleet:
    """Return ``fleet`` with the classes and preferences of ``advice`` in its models."""
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
    # Not `model_copy`: it would carry the cached look-ups of the old models along.
    return Fleet(
        at=fleet.at,
        revision=fleet.revision,
        devices=fleet.devices,
        models=models,
        bookings=fleet.bookings,
        runtimes=fleet.runtimes,
    )
