"""Checks of the GPUs without any runtime: order, UUIDs, process ids, memory. Every call blocks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from modelium.errors import DeadlineExceeded, Unavailable
from modelium.models import GIB, MIB, Device
from modelium.ports import DeviceInventory
from modelium.selftest import cuda
from modelium.selftest.report import Check

HELD_BYTES = 512 * MIB
"""What a probe allocates: well above the noise of other processes."""

TOLERANCE_BYTES = 64 * MIB
RETURN_S = 30.0
"""Within which the driver must give back the memory of a process that ended."""

POLL_S = 0.05
BY_BUS = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def check_gpus(inventory: DeviceInventory) -> Iterator[Check]:
    """Check the order of GPUs, then each GPU; yields nothing but a note where there is none."""
    gpus = [device for device in inventory.snapshot() if device.kind == "gpu"]
    if not gpus:
        yield Check(name="GPUs", outcome="skipped", detail="this machine has no NVIDIA GPU")
        return
    for gpu in gpus:
        if not gpu.healthy:
            yield Check(name=f"GPU {gpu.label}", outcome="failed", detail=gpu.detail)
    healthy = [gpu for gpu in gpus if gpu.healthy]
    try:
        cuda.devices({})
    except Unavailable as exc:
        yield Check(name="CUDA", outcome="failed", detail=str(exc))
        return
    # CUDA does not number MIG instances; one process sees one of them.
    whole = [gpu for gpu in healthy if gpu.mig is None]
    if whole:
        yield _order(whole)
    for gpu in healthy:
        if gpu.mig is None:
            yield _uuid(gpu)
        yield _memory(inventory, gpu)


def _order(gpus: Sequence[Device]) -> Check:
    """Compare NVML's numbers with CUDA's under PCI_BUS_ID, which Modelium sets for engines."""
    listed = {gpu.uuid: gpu.index for gpu in gpus}
    by_default, by_bus = (_places(environment) for environment in ({}, BY_BUS))
    wrong = {uuid for uuid, place in by_bus.items() if listed.get(uuid, place) != place}
    facts = {"nvml": listed, "cuda_default": by_default, "cuda_pci_bus_id": by_bus}
    if wrong:
        detail = "CUDA numbers these GPUs differently from NVML, even by PCI bus: "
        detail += ", ".join(sorted(wrong))
        return Check(name="GPU order", outcome="failed", detail=detail, facts=facts)
    same = all(by_default.get(uuid) == place for uuid, place in by_bus.items())
    detail = "CUDA's numbers are NVML's" if same else "CUDA's numbers are NVML's by PCI bus only"
    return Check(name="GPU order", outcome="ok", detail=detail, facts=facts)


def _places(environment: dict[str, str]) -> dict[str, int]:
    return {found["uuid"]: found["index"] for found in cuda.devices(environment)}


def _uuid(gpu: Device) -> Check:
    name = f"GPU {gpu.label}: selection by UUID"
    try:
        seen = cuda.devices(BY_BUS | {"CUDA_VISIBLE_DEVICES": gpu.uuid})
    except Unavailable as exc:
        return Check(name=name, outcome="failed", detail=str(exc))
    uuids = [found["uuid"] for found in seen]
    if uuids != [gpu.uuid]:
        detail = f"CUDA_VISIBLE_DEVICES={gpu.uuid} selects {', '.join(uuids) or 'nothing'}"
        return Check(name=name, outcome="failed", detail=detail, facts={"selected": uuids})
    return Check(name=name, outcome="ok", detail="CUDA selects this GPU alone")


def _memory(inventory: DeviceInventory, gpu: Device) -> Check:
    """Hold memory in a child process: what NVML says of it, and whether it comes back."""
    name = f"GPU {gpu.label}: memory of a process"
    before = _read(inventory, gpu).free_bytes
    if before < 2 * HELD_BYTES:
        detail = f"only {before / GIB:.1f} GiB are free; free a GPU and run it again"
        return Check(name=name, outcome="skipped", detail=detail)
    try:
        only = BY_BUS | {"CUDA_VISIBLE_DEVICES": gpu.uuid}
        with cuda.holding(0, HELD_BYTES, only) as pid:
            during = _read(inventory, gpu)
        ended = time.monotonic()
        returned_s = _wait_until_returned(inventory, gpu, before) - ended
    except (Unavailable, DeadlineExceeded) as exc:
        return Check(name=name, outcome="failed", detail=str(exc))
    taken = before - during.free_bytes
    listed = during.processes
    own = next((p for p in listed or () if p.pid == pid), None)
    facts = {
        "allocated_bytes": HELD_BYTES,
        "taken_bytes": taken,
        "context_bytes": taken - HELD_BYTES,
        "process_listed": own is not None,
        "process_bytes": own.used_bytes if own else None,
        "processes_listed": len(listed) if listed is not None else None,
        "returned_s": round(returned_s, 3),
    }
    if taken < HELD_BYTES - TOLERANCE_BYTES:
        detail = (
            f"{HELD_BYTES // MIB} MiB were allocated, but NVML shows {taken // MIB} MiB less free"
        )
        return Check(name=name, outcome="failed", detail=detail, facts=facts)
    seen = "is listed by its process id"
    if own is None:
        seen = "is hidden (a container, WSL2 or missing rights): memory is attributed by difference"
    detail = f"a process with {HELD_BYTES // MIB} MiB takes {taken // MIB} MiB and {seen}; "
    detail += f"returned {returned_s:.2f} s after its end"
    return Check(name=name, outcome="ok", detail=detail, facts=facts)


def _wait_until_returned(inventory: DeviceInventory, gpu: Device, before: int) -> float:
    """Return the monotonic time at which the memory was free again."""
    deadline = time.monotonic() + RETURN_S
    while (now := time.monotonic()) < deadline:
        if _read(inventory, gpu).free_bytes >= before - TOLERANCE_BYTES:
            return now
        time.sleep(POLL_S)
    raise DeadlineExceeded(f"its memory was not free again {RETURN_S:.0f} s after its end")


def _read(inventory: DeviceInventory, gpu: Device) -> Device:
    return next(device for device in inventory.snapshot() if device.id == gpu.id)
