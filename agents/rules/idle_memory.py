"""Idle device memory is handed to the KV caches of the models that a plan loads (no I/O here).

A larger pool lets an engine run more requests at once and keep more prefixes. It can be taken back
only by loading the model again, so nothing is lent that another registered model may need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from agents.rules.device_memory import DeviceMemory
from modelium.lifecycle import ModelState
from modelium.models import GIB, Action, Fleet, Load, Model, ModelProfile, Queue
from modelium.policy import Policy

WORTHWHILE = GIB // 4
"""Smaller loans are not worth a different setting at each load."""
STEP = 1024**2
ENGINE_SHARE, ENGINE_BYTES = 1.2, 2 * GIB
"""What a model that is not loaded would take: its weights, times and plus."""


def lend_idle_memory(
    actions: Sequence[Action],
    ceilings: Mapping[str, int],
    memory: DeviceMemory,
    fleet: Fleet,
    policy: Policy,
    *,
    quota: Callable[[Model], int | None] = lambda _model: None,
) -> list[Action]:
    """Return ``actions`` with larger KV pools where memory stays idle; book them in ``memory``.

    Args:
        actions: a finished plan's.
        ceilings: model → bytes per device that its KV cache could use.
        memory: after the actions.
        fleet: the snapshot that was planned on.
        policy: ``kv_cache_share`` limits each loan to a share of what is free on the device.
        quota: most bytes that a model may take on all devices for its team; ``None``: any.
    """
    if any(isinstance(action, Queue) for action in actions):
        return list(actions)
    surplus = _surplus(actions, memory, fleet)
    found: list[Action] = []
    for action in actions:
        if isinstance(action, Load) and ceilings.get(action.model):
            rooms = [memory.room(device) for device in action.devices]
            most = min(min(rooms), surplus // len(rooms))
            wanted = ceilings[action.model] - (action.settings.kv_cache_bytes or 0)
            most = int(policy.kv_cache_share * most)
            allowed = quota(fleet.models_by_name[action.model])
            if allowed is not None:
                most = min(most, (allowed - sum(action.reserve.values())) // len(rooms))
            loan = min(most, wanted) // STEP * STEP
            if loan >= WORTHWHILE:
                action = _with_loan(action, loan)
                memory.load(fleet.models_by_name[action.model], action.devices, loan)
                surplus -= loan * len(rooms)
        found.append(action)
    return found


def _with_loan(action: Load, loan: int) -> Load:
    settings = action.settings
    return action.model_copy(
        update={
            "settings": settings.model_copy(
                update={
                    "kv_cache_bytes": (settings.kv_cache_bytes or 0) + loan,
                    "extra_kv_bytes": settings.extra_kv_bytes + loan,
                }
            ),
            "reserve": {device: held + loan for device, held in action.reserve.items()},
            "reason": f"{action.reason}; {loan / GIB:.2f} GiB of idle memory for its KV cache",
        }
    )


def _surplus(actions: Sequence[Action], memory: DeviceMemory, fleet: Fleet) -> int:
    """Return the bytes on all GPUs that no registered model would need.

    Below 0 where they need more than there is, 0 where that is unknown.
    """
    free = sum(memory.room(d.id) for d in fleet.devices if d.kind == "gpu")
    loaded = {action.model for action in actions if isinstance(action, Load)}
    for model in fleet.models:
        if model.name in loaded or model.state is ModelState.FAILED:
            continue
        if model.deployment is not None and model.name not in memory.leaving:
            continue
        if model.profile is None:
            return 0  # it will be known in a moment
        free -= _likely_bytes(model, model.profile)
    return free


def _likely_bytes(model: Model, profile: ModelProfile) -> int:
    measured = max((load.per_device_bytes for load in model.measured), default=0)
    return max(measured, int(profile.weight_bytes * ENGINE_SHARE) + ENGINE_BYTES)
