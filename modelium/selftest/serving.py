"""Checks of one runtime: a whole service with it alone serves a tiny model and takes it away.

The service is the real one, in a temporary folder, on free ports, with the user's settings of the
runtime and without Prefect. A server or cluster of others is used as the user's configuration says.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx

from modelium.app import Running
from modelium.config import Config
from modelium.errors import DeadlineExceeded, ModeliumError
from modelium.lifecycle import ModelState
from modelium.models import Device, Model, RuntimeName
from modelium.models.runtimes import RUNTIMES
from modelium.selftest import isolation
from modelium.selftest.report import Check
from modelium.selftest.samples import gguf, llama, onnx
from modelium.stages.services import Services
from modelium.stages.snapshot import inventory

T = TypeVar("T")

NAME = "modelium-selftest"
SERVERS = frozenset({RuntimeName.TRITON, RuntimeName.RAY_SERVE})
"""Runtimes with one server for all models; the others start a process for each."""

UP_S = 180.0
"""For a runtime that Modelium starts, such as a Ray cluster."""

LOAD_S = 600.0
"""Half of it is the first start of an engine that compiles its kernels."""

MEASURED_S = 20.0
"""The control loop measures memory every second."""

RETURN_S = 60.0
"""Within which the memory of an unloaded model must be free again."""

TOLERANCE_BYTES = 128 * 2**20
POLL_S = 0.2


async def check_runtime(
    config: Config, runtime: RuntimeName, *, say: Callable[[str], None]
) -> AsyncIterator[Check]:
    """Load, ask, put to sleep, wake and unload a tiny model; stops at the first failure.

    On a machine with GPUs it is loaded on one, unless this installation can use the CPU only.
    """
    label = RUNTIMES[runtime].label
    say(f"{label}: starting")
    try:
        for beside_gpus in (False, True):
            async with isolation.service(config, runtime, beside_gpus=beside_gpus) as service:
                trial = Trial(service=service, runtime=runtime)
                if not beside_gpus and await trial.needs_cpu():
                    continue
                async for check in _perform(trial, label, say):
                    yield check
                return
    except ModeliumError as exc:
        yield Check(name=f"{label}: start", outcome="failed", detail=str(exc))


async def _perform(trial: Trial, label: str, say: Callable[[str], None]) -> AsyncIterator[Check]:
    for step, act in trial.steps().items():
        say(f"{label}: {step}")
        began = time.monotonic()
        check = await _attempt(f"{label}: {step}", act)
        seconds = round(time.monotonic() - began, 3)
        yield check.model_copy(update={"facts": check.facts | {"seconds": seconds}})
        if check.outcome == "failed":
            return


async def _attempt(name: str, act: Callable[[], Awaitable[Check]]) -> Check:
    try:
        found = await act()
    except (ModeliumError, httpx.HTTPError) as exc:
        return Check(name=name, outcome="failed", detail=str(exc) or type(exc).__name__)
    return found.model_copy(update={"name": name})


class Trial:
    """One tiny model on its way through one runtime."""

    def __init__(self, *, service: Running, runtime: RuntimeName) -> None:
        """Take a running service that has ``runtime`` alone."""
        self._services = service.services
        self._gateway = service.gateway_url
        self._runtime = runtime
        self._driver = service.services.runtimes[runtime]
        self._before: tuple[Device, ...] = ()
        self._waits_for = ""

    async def needs_cpu(self) -> bool:
        """Whether the runtime can use the CPU only, on a machine that offers its GPUs alone."""
        usable = (await self._driver.status()).device_kinds
        devices = (await inventory(self._services)).devices
        return usable == {"cpu"} and all(device.kind == "gpu" for device in devices)

    def steps(self) -> Mapping[str, Callable[[], Awaitable[Check]]]:
        """Return the steps by name, in order."""
        return {
            "connect": self._connect,
            "load": self._load,
            "request": self._request,
            "memory": self._memory,
            "sleep and wake": self._sleep,
            "unload": self._unload,
            "memory returned": self._returned,
        }

    async def _connect(self) -> Check:
        # Only servers take time to start; the others are commands, which are there or not.
        limit = UP_S if self._runtime in SERVERS else 0.0
        deadline = time.monotonic() + limit
        while not (status := await self._driver.status()).healthy:
            if time.monotonic() >= deadline:
                return _failed(status.detail or "it does not answer")
            await asyncio.sleep(POLL_S)
        self._before = (await inventory(self._services)).devices
        facts = {"version": status.version, "can_sleep": status.can_sleep}
        return _ok(f"version {status.version or 'unknown'}", facts)

    async def _load(self) -> Check:
        incoming = self._services.config.orchestration.incoming_directory
        _SAMPLES[self._runtime](incoming / NAME)
        try:
            model = await _until(LOAD_S, f"it was not ready within {LOAD_S:.0f} s", self._ready)
        except DeadlineExceeded as exc:
            return _failed(f"{exc}; {self._waits_for}" if self._waits_for else str(exc))
        deployment = model.deployment
        assert deployment is not None  # noqa: S101 - of a model that is ready
        facts = {
            "devices": list(deployment.devices),
            "settings": deployment.settings.model_dump(mode="json", exclude_defaults=True),
            "load_s": deployment.load_s,
        }
        where = ", ".join(deployment.devices)
        return _ok(f"ready on {where} in {deployment.load_s or 0.0:.1f} s", facts)

    async def _ready(self) -> Model | None:
        model = await self._services.store.find(NAME)
        if model is None:
            return None
        if model.state is ModelState.FAILED:
            raise DeadlineExceeded(model.reason)
        # Queued: for the control loop, a server may still be starting.
        self._waits_for = model.reason if model.state is ModelState.QUEUED else ""
        return model if model.state is ModelState.READY else None

    async def _request(self) -> Check:
        token = self._services.config.gateway.token
        async with httpx.AsyncClient(
            base_url=self._gateway,
            headers={"Authorization": f"Bearer {token.get_secret_value()}"} if token else {},
            timeout=120,
            trust_env=False,
        ) as http:
            if self._runtime in (RuntimeName.VLLM, RuntimeName.LLAMA_CPP):
                return await self._complete(http)
            return await self._infer(http)

    async def _complete(self, http: httpx.AsyncClient) -> Check:
        body = {"model": NAME, "prompt": "hello", "max_tokens": 4}
        answer = await http.post("/v1/completions", json=body)
        if answer.status_code != 200:
            return _failed(f"HTTP {answer.status_code}: {answer.text[:500]}")
        tokens = answer.json()["usage"]["completion_tokens"]
        return _ok(f"{tokens} tokens", {"completion_tokens": tokens})

    async def _infer(self, http: httpx.AsyncClient) -> Check:
        data = [float(value) for value in range(onnx.WIDTH)]
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, onnx.WIDTH], "data": data}
        answer = await http.post(f"/v2/models/{NAME}/infer", json={"inputs": [tensor]})
        if answer.status_code != 200:
            return _failed(f"HTTP {answer.status_code}: {answer.text[:500]}")
        got = answer.json()["outputs"][0]["data"]
        pairs = zip(got, data, strict=False)
        if len(got) != len(data) or not all(math.isclose(y, 2 * x) for y, x in pairs):
            return _failed(f"wrong answer: {str(got)[:200]}")
        return _ok("the answer is right")

    async def _memory(self) -> Check:
        """Compare what was booked with what the control loop measured and the device lost."""
        fleet = await inventory(self._services)
        booked = {b.device: b.bytes for b in fleet.bookings if b.model == NAME}
        held = await _resident(self._services, within_s=MEASURED_S)
        now = fleet.devices_by_id
        gone = {
            device.id: device.free_bytes - now[device.id].free_bytes
            for device in self._before
            if device.id in booked
        }
        facts = {"booked_bytes": booked, "measured_bytes": held, "device_lost_bytes": gone}
        rows = [
            f"{device}: {_mib(size)} booked, {_mib(held.get(device))} measured, "
            f"{_mib(gone.get(device))} less free"
            for device, size in booked.items()
        ]
        over = [device for device, size in booked.items() if (held.get(device) or 0) > size]
        if over:
            return _failed(f"{'; '.join(rows)}: it takes more than was booked", facts)
        return _ok("; ".join(rows), facts)

    async def _sleep(self) -> Check:
        if not (await self._driver.status()).can_sleep:
            return Check(name="", outcome="skipped", detail="this runtime cannot sleep here")
        model = await self._services.store.model(NAME)
        handle = model.deployment.handle if model.deployment else {}
        awake = (await inventory(self._services)).devices_by_id
        await self._driver.sleep(NAME, handle=handle)
        asleep = (await inventory(self._services)).devices_by_id
        await self._driver.wake(NAME, handle=handle)
        answer = await self._request()
        freed = {d: asleep[d].free_bytes - awake[d].free_bytes for d in asleep}
        if answer.outcome == "failed":
            return answer.model_copy(update={"detail": f"after waking: {answer.detail}"})
        rows = ", ".join(f"{device}: {_mib(size)} freed" for device, size in freed.items())
        return _ok(f"{rows}; it answers after waking", {"freed_bytes": freed})

    async def _unload(self) -> Check:
        await self._services.launcher.evict(models=[NAME], reason="the self-test is done with it")
        model = await self._services.store.model(NAME)
        if model.deployment is not None:
            return _failed(f"it is {model.state.value}: {model.reason}")
        return _ok("unloaded")

    async def _returned(self) -> Check:
        """Wait until each GPU has as much free memory as before; a CPU's moves by itself."""
        gpus = [device for device in self._before if device.kind == "gpu"]
        if not gpus:
            return Check(name="", outcome="skipped", detail="there is no GPU to measure")
        missing: dict[str, int] = {}

        async def back() -> bool | None:
            now = (await inventory(self._services)).devices_by_id
            missing.clear()
            missing.update({d.id: d.free_bytes - now[d.id].free_bytes for d in gpus})
            return all(lost <= TOLERANCE_BYTES for lost in missing.values()) or None

        try:
            await _until(RETURN_S, "", back)
        except DeadlineExceeded:
            rows = ", ".join(f"{device}: {_mib(lost)}" for device, lost in missing.items())
            detail = f"{RETURN_S:.0f} s after the unload it is not free again ({rows}); "
            detail += "servers such as Triton keep some for the next model"
            outcome = _ok if self._runtime in SERVERS else _failed
            return outcome(detail, {"missing_bytes": missing})
        return _ok("all of it is free again", {"missing_bytes": missing})


_SAMPLES: Mapping[RuntimeName, Callable[[Path], Path]] = {
    RuntimeName.VLLM: llama.write,
    RuntimeName.LLAMA_CPP: gguf.write,
    RuntimeName.TRITON: onnx.write,
    RuntimeName.RAY_SERVE: onnx.write,
}


async def _resident(services: Services, *, within_s: float) -> dict[str, int]:
    """Return device → bytes that the control loop measured; empty where it cannot tell."""

    async def measured() -> dict[str, int] | None:
        fleet = await inventory(services)
        found = {b.device: b.resident_bytes for b in fleet.bookings if b.model == NAME}
        held = {device: size for device, size in found.items() if size}
        return held if len(held) == len(found) else None

    try:
        return await _until(within_s, "", measured)
    except DeadlineExceeded:
        return {}


async def _until(within_s: float, otherwise: str, ask: Callable[[], Awaitable[T | None]]) -> T:
    """Return the first answer of ``ask`` that is not ``None``.

    Raises:
        DeadlineExceeded: there was none in time, with the text ``otherwise``.
    """
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        answer = await ask()
        if answer is not None:
            return answer
        await asyncio.sleep(POLL_S)
    raise DeadlineExceeded(otherwise)


def _ok(detail: str, facts: Mapping[str, Any] | None = None) -> Check:
    return Check(name="", outcome="ok", detail=detail, facts=dict(facts or {}))


def _failed(detail: str, facts: Mapping[str, Any] | None = None) -> Check:
    return Check(name="", outcome="failed", detail=detail, facts=dict(facts or {}))


def _mib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**20:,.0f} MiB"
