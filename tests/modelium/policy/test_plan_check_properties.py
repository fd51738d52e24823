from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelium.lifecycle import TRANSITIONS, ModelState
from modelium.models import Fleet, Load, Plan, Queue, Reject, Unload
from modelium.policy import Policy, validate
from tests.fakes.fleets import NOW
from tests.fakes.random_fleets import fleets, plans, policies

S = ModelState
RELAXED = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
TARGETS = {Load: S.LOADING, Unload: S.UNLOADING, Queue: S.QUEUED, Reject: S.FAILED}


def check_accepted(plan: Plan, fleet: Fleet, policy: Policy) -> None:
    """An accepted plan overbooks nothing, takes no pinned model, and follows the lifecycle."""
    booked = {d.id: 0 for d in fleet.devices}
    gone: set[str] = set()
    models = fleet.models_by_name
    for action in plan.actions:
        model = models[action.model]
        target = TARGETS.get(type(action))
        if target is S.UNLOADING and isinstance(action, Unload) and action.sleep:
            target = S.SLEEPING
        if target is not None and model.state is not target:
            assert target in TRANSITIONS[model.state]
        if isinstance(action, Unload):
            assert not model.pinned
            assert model.name not in policy.always_loaded
            gone.add(model.name)
        elif isinstance(action, Load):
            for device, size in action.reserve.items():
                booked[device] += size
                held = sum(
                    b.bytes for b in fleet.bookings_by_device.get(device, ()) if b.model not in gone
                )
                total = fleet.devices_by_id[device].total_bytes
                assert held + booked[device] <= total * policy.max_gpu_memory_utilization + 1


@RELAXED
@given(data=st.data(), fleet=fleets(), policy=policies())
def test_what_the_policy_accepts_does_no_harm(
    data: st.DataObject, fleet: Fleet, policy: Policy
) -> None:
    plan = data.draw(plans(fleet))
    if not validate(plan, fleet, policy, now=NOW):
        check_accepted(plan, fleet, policy)
    # Actions that are fine one by one are drawn rarely together: judge each alone as well.
    for action in plan.actions:
        alone = plan.model_copy(update={"actions": (action,)})
        if not validate(alone, fleet, policy, now=NOW):
            check_accepted(alone, fleet, policy)
