"""A fleet as the admin API and the status page show it (no I/O here).

Without engines' API keys and drivers' handles, which must not leave the service.
"""

from __future__ import annotations

from typing import Any

from modelium.lifecycle import ModelState
from modelium.metrics import device_labels
from modelium.models import Decision, Fleet, Frozen, Model, Priority, RuntimeName


class ModelRow(Frozen):
    """A table row for one model."""

    name: str
    version: int
    state: ModelState
    since: float
    """Epoch seconds."""
    runtime: RuntimeName | None = None
    devices: tuple[str, ...] = ()
    """Labels, as in metrics."""
    nodes: tuple[str, ...] = ()
    """Where it is loaded; empty where there is one node."""
    booked_bytes: int = 0
    resident_bytes: int | None = 0
    """``None``: nobody can tell."""
    idle_s: float | None = None
    """``None``: not loaded."""
    qps: float = 0.0
    in_flight: int = 0
    pending: int = 0
    latency_p50_s: float | None = None
    priority: Priority
    pinned: bool
    team: str | None = None
    failures: int = 0
    """In a row."""
    retry_at: float | None = None
    """Epoch seconds."""
    quarantined: bool = False
    reason: str = ""


class DeviceRow(Frozen):
    """A table row for one device."""

    id: str
    label: str
    name: str
    kind: str
    node: str
    total_bytes: int
    used_bytes: int
    booked_bytes: int
    utilization: float | None = None
    healthy: bool
    detail: str = ""
    models: tuple[str, ...] = ()


def model_rows(fleet: Fleet) -> list[ModelRow]:
    """Return a row for each model, in the fleet's order."""
    labels = device_labels(fleet.devices)
    booked: dict[str, int] = {}
    resident: dict[str, int | None] = {}
    for booking in fleet.bookings:
        booked[booking.model] = booked.get(booking.model, 0) + booking.bytes
        resident[booking.model] = _sum(resident.get(booking.model, 0), booking.resident_bytes)
    return [
        _row(model, fleet, labels, booked.get(model.name, 0), resident.get(model.name, 0))
        for model in fleet.models
    ]


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _row(
    model: Model, fleet: Fleet, labels: dict[str, str], booked: int, resident: int | None
) -> ModelRow:
    deployment, now = model.deployment, fleet.at
    return ModelRow(
        name=model.name,
        version=model.version,
        state=model.state,
        since=model.state_since,
        runtime=deployment.runtime if deployment else None,
        devices=tuple(labels.get(d, d) for d in deployment.devices) if deployment else (),
        nodes=deployment.nodes if deployment and len(fleet.nodes) > 1 else (),
        booked_bytes=booked,
        resident_bytes=resident,
        idle_s=model.idle_s(now) if deployment else None,
        qps=model.traffic.qps,
        in_flight=model.traffic.in_flight,
        pending=model.traffic.pending,
        latency_p50_s=model.traffic.latency_p50_s,
        priority=model.priority,
        pinned=model.pinned,
        team=model.team,
        failures=model.failures,
        retry_at=model.retry_at,
        quarantined=model.quarantined,
        reason=model.reason,
    )


def device_rows(fleet: Fleet) -> list[DeviceRow]:
    """Return a row for each device, in the fleet's order."""
    labels = device_labels(fleet.devices)
    rows = []
    for device in fleet.devices:
        bookings = fleet.bookings_by_device.get(device.id, ())
        rows.append(
            DeviceRow(
                id=device.id,
                label=labels[device.id],
                name=device.name,
                kind=device.kind,
                node=device.node,
                total_bytes=device.total_bytes,
                used_bytes=device.total_bytes - device.free_bytes,
                booked_bytes=sum(b.bytes for b in bookings),
                utilization=device.utilization,
                healthy=device.healthy,
                detail=device.detail,
                models=tuple(b.model for b in bookings),
            )
        )
    return rows


def model_detail(model: Model) -> dict[str, Any]:
    """Return ``model`` as JSON values, without secrets."""
    shown = model.model_dump(
        mode="json", exclude={"deployment": {"handle": True, "upstream": {"api_key": True}}}
    )
    return {**shown, "quarantined": model.quarantined}


def decision_detail(decision: Decision) -> dict[str, Any]:
    """Return ``decision`` as JSON values, without the packed snapshot that it was based on."""
    return decision.model_dump(mode="json", exclude={"trace": {"snapshot"}})


def openai_model(model: Model, *, alias: str | None = None) -> dict[str, Any]:
    """Return ``model``, or an ``alias`` of it, as an entry of OpenAI's list, plus its state."""
    named = {"id": alias, "alias_of": model.name} if alias else {"id": model.name}
    return {
        **named,
        "object": "model",
        "created": int(model.registered_at),
        "owned_by": model.team or "modelium",
        "version": model.version,
        "state": model.state,
        "runtime": model.deployment.runtime if model.deployment else None,
    }
