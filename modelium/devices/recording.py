"""What NVML answers on this machine, call by call, as JSON: for a bug report and for tests.

Each answer is ``{"ok": VALUE}``, or ``{"error": CODE, "message": TEXT}`` with NVML's own code::

    {"format": 1,
     "init": ANSWER,
     "system": {CALL: ANSWER, ...},
     "devices": [{CALL: ANSWER, ..., "mig": [{CALL: ANSWER, ...}, ...]}, ...]}

``CALL`` is the name of the function in NVML's header, without its version except for
``nvmlDeviceGetMemoryInfo_v2``. ``devices`` follow NVML's index, which is the order on the PCI bus;
``mig`` holds the MIG instances of a partitioned GPU. A device whose handle cannot be had contains
only ``nvmlDeviceGetHandleByIndex``. Readers ignore keys that they do not know.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import pynvml

from modelium.devices.gpu_samples import process_samples, samples

FORMAT = 1

SAMPLES = 3
"""Utilization samples recorded of each kind: enough to see whether and how a driver tells."""

Answer = dict[str, Any]

SYSTEM_CALLS: Mapping[str, Callable[[], Any]] = {
    "nvmlSystemGetDriverVersion": pynvml.nvmlSystemGetDriverVersion,
    "nvmlSystemGetNVMLVersion": pynvml.nvmlSystemGetNVMLVersion,
    "nvmlSystemGetCudaDriverVersion": pynvml.nvmlSystemGetCudaDriverVersion,
}

DEVICE_CALLS: Mapping[str, Callable[[Any], Any]] = {
    "nvmlDeviceGetUUID": pynvml.nvmlDeviceGetUUID,
    "nvmlDeviceGetName": pynvml.nvmlDeviceGetName,
    "nvmlDeviceGetPciInfo": pynvml.nvmlDeviceGetPciInfo,
    "nvmlDeviceGetMinorNumber": pynvml.nvmlDeviceGetMinorNumber,
    "nvmlDeviceGetCudaComputeCapability": pynvml.nvmlDeviceGetCudaComputeCapability,
    "nvmlDeviceGetArchitecture": pynvml.nvmlDeviceGetArchitecture,
    "nvmlDeviceGetMemoryInfo": pynvml.nvmlDeviceGetMemoryInfo,
    "nvmlDeviceGetMemoryInfo_v2": lambda handle: pynvml.nvmlDeviceGetMemoryInfo(
        handle, version=pynvml.nvmlMemory_v2
    ),
    "nvmlDeviceGetBAR1MemoryInfo": pynvml.nvmlDeviceGetBAR1MemoryInfo,
    "nvmlDeviceGetUtilizationRates": pynvml.nvmlDeviceGetUtilizationRates,
    "nvmlDeviceGetSamples": lambda handle: samples(handle, 0)[-SAMPLES:],
    "nvmlDeviceGetProcessUtilization": lambda handle: [
        number for sample in process_samples(handle, 0)[-SAMPLES:] for number in sample
    ],
    "nvmlDeviceGetComputeRunningProcesses": pynvml.nvmlDeviceGetComputeRunningProcesses,
    "nvmlDeviceGetGraphicsRunningProcesses": pynvml.nvmlDeviceGetGraphicsRunningProcesses,
    "nvmlDeviceGetMigMode": pynvml.nvmlDeviceGetMigMode,
    "nvmlDeviceGetMaxMigDeviceCount": pynvml.nvmlDeviceGetMaxMigDeviceCount,
    "nvmlDeviceIsMigDeviceHandle": pynvml.nvmlDeviceIsMigDeviceHandle,
    "nvmlDeviceGetComputeMode": pynvml.nvmlDeviceGetComputeMode,
    "nvmlDeviceGetPersistenceMode": pynvml.nvmlDeviceGetPersistenceMode,
    "nvmlDeviceGetEccMode": pynvml.nvmlDeviceGetEccMode,
    "nvmlDeviceGetPowerUsage": pynvml.nvmlDeviceGetPowerUsage,
    "nvmlDeviceGetTemperature": lambda handle: pynvml.nvmlDeviceGetTemperature(
        handle, pynvml.NVML_TEMPERATURE_GPU
    ),
}


def record() -> dict[str, Any]:
    """Ask NVML every call above and return the answers. Blocks; raises nothing of NVML's."""
    recorded: dict[str, Any] = {"format": FORMAT, "init": ask(pynvml.nvmlInit)}
    if "error" in recorded["init"]:
        return recorded
    recorded["system"] = {name: ask(call) for name, call in SYSTEM_CALLS.items()}
    count = ask(pynvml.nvmlDeviceGetCount)
    if "error" in count:
        recorded["system"]["nvmlDeviceGetCount"] = count
    recorded["devices"] = [_device(index) for index in range(count.get("ok", 0))]
    return recorded


def ask(call: Callable[..., Any], *args: Any) -> Answer:
    """Return the answer of one NVML call as JSON values."""
    try:
        return {"ok": _plain(call(*args))}
    except pynvml.NVMLError as exc:
        return {"error": exc.value, "message": str(exc)}


def _device(index: int) -> dict[str, Any]:
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError as exc:
        return {"nvmlDeviceGetHandleByIndex": {"error": exc.value, "message": str(exc)}}
    answers: dict[str, Any] = {name: ask(call, handle) for name, call in DEVICE_CALLS.items()}
    instances = _instances(handle, answers["nvmlDeviceGetMaxMigDeviceCount"].get("ok", 0))
    if instances:
        answers["mig"] = instances
    return answers


def _instances(gpu: object, most: int) -> list[dict[str, Any]]:
    """Return the answers of each MIG instance; positions without one are left out."""
    found = []
    for position in range(most):
        try:
            handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, position)
        except pynvml.NVMLError:
            continue
        found.append({name: ask(call, handle) for name, call in DEVICE_CALLS.items()})
    return found


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON values: structures as objects, without their version field."""
    if isinstance(value, ctypes.Structure | pynvml.nvmlFriendlyObject):
        fields = (
            [name for name, *_ in value._fields_]
            if isinstance(value, ctypes.Structure)
            else list(vars(value))
        )
        return {f: _plain(getattr(value, f)) for f in fields if f != "version"}
    if isinstance(value, ctypes._SimpleCData):
        return _plain(value.value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
