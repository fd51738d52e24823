"""Loads and requests for tests on a real Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from modelium.models import Device, LoadSettings, ModelProfile, Upstream
from modelium.ports import LoadRequest, Running
from runtimes.ray.connection import Session
from runtimes.ray.driver import RayServeDriver

MIB = 1024**2


CPU = Device(node="n", uuid="cpu", kind="cpu", total_bytes=8192 * MIB, free_bytes=8192 * MIB)


GPU = Device(node="n", uuid="GPU-0", kind="gpu", total_bytes=8192 * MIB, free_bytes=8192 * MIB)


SOON_S = 60.0
"""Bound on what Ray does in seconds; generous, as the machine may be busy."""


def request(
    model: str, folder: Path, profile: ModelProfile, *, reserve: int = 512 * MIB, **more: Any
) -> LoadRequest:
    device = more.pop("device", CPU)
    return LoadRequest(
        model=model,
        version=1,
        path=str(folder),
        profile=profile,
        settings=more.pop("settings", LoadSettings()),
        devices=(device,),
        reserve={device.id: reserve},
        deadline_s=more.pop("deadline_s", 120.0),
        **more,
    )


def quiet(phase: str, share: float | None) -> None:
    """Ignore progress."""


async def running(driver: RayServeDriver, model: str) -> Running | None:
    found = {one.model: one for one in await driver.discover({})}
    return found.get(model)


def key_of(upstream: Upstream) -> dict[str, str]:
    return {"Authorization": f"Bearer {upstream.api_key}"} if upstream.api_key else {}


async def infer(upstream: Upstream, tensor: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    url = f"{upstream.base_url}/v2/models/{upstream.served_name}/infer"
    document = {"inputs": [tensor], "parameters": parameters}
    async with httpx.AsyncClient(timeout=SOON_S) as client:
        answer = await client.post(url, json=document, headers=key_of(upstream))
    assert answer.status_code == 200, answer.text
    return {output["name"]: output["data"] for output in answer.json()["outputs"]}


async def post(upstream: Upstream, path: str, **document: Any) -> Any:
    async with httpx.AsyncClient(timeout=SOON_S) as client:
        answer = await client.post(
            f"{upstream.base_url}{path}", json=document, headers=key_of(upstream)
        )
    assert answer.status_code == 200, answer.text
    return answer.json()


def texts(*given: str) -> dict[str, Any]:
    return {"name": "text", "datatype": "BYTES", "shape": [len(given)], "data": list(given)}


def session_of(driver: RayServeDriver) -> Session:
    session = driver._connection.session
    assert session is not None
    return session
