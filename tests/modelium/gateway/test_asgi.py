"""Clients that disconnect."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.fakes.upstream import Upstream
from tests.modelium.gateway.conftest import Setup, Start, until
from tests.modelium.gateway.proxy.conftest import CHAT, pending


async def raw_chat(setup: Setup, do: str = "", stream: bool = False) -> asyncio.StreamWriter:
    """Send a chat request over a socket of its own, which is then the test's to close."""
    body = json.dumps({**CHAT, "stream": stream}).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", setup.port)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        f"x-do: {do}\r\nx-then: wait\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
    return writer


async def test_client_that_leaves_while_it_waits_is_no_longer_counted(setup: Setup) -> None:
    setup.board.know(["m"])
    writer = await raw_chat(setup)
    await until(lambda: pending(setup) == 1)
    writer.close()
    await until(lambda: pending(setup) == 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_client_that_leaves_cancels_the_engines_work(
    setup: Setup, engine: Upstream, stream: bool
) -> None:
    setup.board.open("m", engine.address("m"))
    writer = await raw_chat(setup, do="" if stream else "hold", stream=stream)
    await asyncio.wait_for(engine.arrived.wait(), 20)
    assert not engine.left.is_set()
    writer.close()
    await asyncio.wait_for(engine.left.wait(), 20)
    await until(lambda: setup.board.traffic.in_flight("m") == 0)
    assert setup.board.traffic.snapshot()["m"].failed == 0


async def test_a_client_that_leaves_between_comments_is_no_longer_counted(start: Start) -> None:
    async with start(stream_comment_seconds=0.02) as setup:
        setup.board.know(["m"])
        writer = await raw_chat(setup, stream=True)
        await until(lambda: pending(setup) == 1)
        writer.close()
        await until(lambda: pending(setup) == 0)
        assert setup.board.traffic.in_flight("m") == 0
