"""What a driver is asked for when this node loads a model, or its part of one."""

from __future__ import annotations

from pathlib import Path

from modelium.errors import ModeliumError
from modelium.models import Deployment, Fleet, Model
from modelium.models.load_time import load_bound_s
from modelium.ports import LoadRequest, Span
from modelium.stages.locality import has_devices
from modelium.stages.services import Services


def load_request(
    services: Services,
    fleet: Fleet,
    record: Model,
    deployment: Deployment,
    path: Path,
    *,
    span: Span | None = None,
) -> LoadRequest:
    """Return the request for the devices of this node.

    Args:
        services: the policy and the name of this node.
        fleet: with the devices and the bookings.
        record: the model.
        deployment: where and how it is loaded.
        path: of its files on this node.
        span: which part of it, where it is over several nodes.

    Raises:
        ModeliumError: it has not been analyzed.
    """
    if record.profile is None:
        raise ModeliumError(f"{record.name} has no profile; load it again")
    here = [device for device in deployment.devices if has_devices(services, (device,))]
    policy, name = services.policy, record.name
    return LoadRequest(
        model=deployment.name,
        version=record.version,
        path=str(path),
        profile=record.profile,
        settings=deployment.settings,
        devices=tuple(fleet.devices_by_id[device] for device in here),
        reserve={b.device: b.bytes for b in fleet.bookings if b.model == name and b.device in here},
        operator_settings=policy.model_settings.get(name, {}),
        deadline_s=load_bound_s(record, deployment.runtime),
        allow_remote_code=policy.allow_remote_code or "remote-code" in record.approvals,
        span=span,
    )
