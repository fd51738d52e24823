"""Modelium's events as Prefect events, so that Prefect's automations can react to them."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect.events import emit_event

from modelium.models import Event

PREFIX = "modelium."
"""Prefix of the store's event kinds: ``modelium.model.ready``, ``modelium.plan.refused`` …"""


def emit(event: Event, *, node: str) -> None:
    """Queue ``event`` for Prefect's sender thread; returns at once."""
    subject = f"{PREFIX}model.{event.model}" if event.model else f"{PREFIX}node.{node}"
    emit_event(
        event=f"{PREFIX}{event.kind}",
        occurred=datetime.fromtimestamp(event.at, UTC),
        resource={
            "prefect.resource.id": subject,
            "prefect.resource.name": event.model or node,
            **{f"{PREFIX}{key}": value for key, value in event.detail.items() if _is_label(value)},
        },
        related=[
            {"prefect.resource.id": f"{PREFIX}node.{node}", "prefect.resource.role": "node"},
        ],
        payload=event.detail,
    )


def _is_label(value: object) -> bool:
    """Whether automations can match on it: a short word, not a sentence."""
    return isinstance(value, str) and len(value) <= 64
