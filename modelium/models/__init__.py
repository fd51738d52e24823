"""The domain model that core, brain and runtimes share (no I/O here).

Units: memory in bytes, durations in seconds, instants in seconds since the epoch (UTC).
All values are immutable; a `Fleet` is one snapshot of everything.
"""

from modelium.models.base import GIB, MODEL_NAME, Api, Frozen, Priority, RuntimeName
from modelium.models.decisions import (
    Action,
    Candidate,
    Decision,
    Event,
    EvictionCause,
    Intent,
    Keep,
    Load,
    Plan,
    Queue,
    Reject,
    Report,
    Trigger,
    Unload,
    Violation,
)
from modelium.models.devices import (
    Booking,
    Device,
    DeviceKind,
    DeviceProcess,
    RuntimeStatus,
)
from modelium.models.drops import Drop, DropState
from modelium.models.fleet import Deployment, Fleet, Habit, Model, Traffic, Upstream
from modelium.models.profile import (
    Footprint,
    KVLayout,
    LoadSettings,
    MeasuredLoad,
    ModelFormat,
    ModelProfile,
    Preference,
    RuntimeSupport,
    Task,
    TensorSpec,
    Untrusted,
)

__all__ = [
    "GIB",
    "MODEL_NAME",
    "Action",
    "Api",
    "Booking",
    "Candidate",
    "Decision",
    "Deployment",
    "Device",
    "DeviceKind",
    "DeviceProcess",
    "Drop",
    "DropState",
    "Event",
    "EvictionCause",
    "Fleet",
    "Footprint",
    "Frozen",
    "Habit",
    "Intent",
    "KVLayout",
    "Keep",
    "Load",
    "LoadSettings",
    "MeasuredLoad",
    "Model",
    "ModelFormat",
    "ModelProfile",
    "Plan",
    "Preference",
    "Priority",
    "Queue",
    "Reject",
    "Report",
    "RuntimeName",
    "RuntimeStatus",
    "RuntimeSupport",
    "Task",
    "TensorSpec",
    "Traffic",
    "Trigger",
    "Unload",
    "Untrusted",
    "Upstream",
    "Violation",
]
