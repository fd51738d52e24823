"""What a worker reads for the service, before anybody has looked at credentials."""

from __future__ import annotations

import asyncio
from typing import Any

from modelium.gateway.proxy.upstream import UpstreamClient
from modelium.gateway.workers import inward
from modelium.gateway.workers.inward import Inward


async def test_unfinished_bodies_of_strangers_stay_within_a_bound() -> None:
    part, kept, refused = bytes(inward.MAX_BODY_BYTES - 1), list[int](), list[int]()
    door = Inward(client=UpstreamClient(), path="/nowhere")

    async def ask(number: int) -> None:
        sent = False

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if sent:
                kept.append(number)
                await asyncio.Event().wait()
            sent = True
            return {"type": "http.request", "body": part, "more_body": True}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                refused.append(message["status"])

        scope = {
            "type": "http", "method": "POST", "path": "/api/v1/ingest", "headers": [],
            "client": (f"10.0.0.{number % 3}", 1),
        }  # fmt: skip
        await door(scope, receive, send)

    asking = [asyncio.create_task(ask(number)) for number in range(100)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for one in asking:
        one.cancel()
    assert len(kept) * len(part) <= inward.MAX_HELD_BYTES
    assert len(kept) + len(refused) == 100 and set(refused) <= {429, 503}
