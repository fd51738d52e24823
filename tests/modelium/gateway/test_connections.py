"""Clients that are slow, silent, many, or send headers without end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from modelium.gateway.connections import MOST, bounds_for, peer_of
from modelium.gateway.protocol import MAX_HEAD_BYTES, MAX_HEADERS, MAX_LINE_BYTES
from tests.fakes.upstream import Upstream
from tests.modelium.gateway.conftest import Setup, Start, until
from tests.modelium.gateway.proxy.conftest import CHAT, pending

pytestmark = pytest.mark.slow

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"


class Client:
    """A connection of the test's own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def status(self) -> int:
        """The status of the next answer; 0: closed without one."""
        async with asyncio.timeout(10):
            try:
                line = await self._reader.readline()
            except ConnectionResetError:
                return 0
            return int(line.split()[1]) if line else 0

    async def rest(self) -> bytes:
        """All that still comes, until the gateway closes the connection."""
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionResetError):  # closed with bytes unread
                return await self._reader.read()
        return b""


@contextlib.asynccontextmanager
async def connected(setup: Setup, count: int = 1) -> AsyncIterator[list[Client]]:
    streams = [await asyncio.open_connection("127.0.0.1", setup.port) for _ in range(count)]
    try:
        yield [Client(*stream) for stream in streams]
    finally:
        for _, writer in streams:
            writer.close()


@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_peer"])
@pytest.mark.parametrize("sent", [b"", GET, GET + b"\r\n"])
async def test_silent_clients_give_way_to_others(start: Start, limit: str, sent: bytes) -> None:
    async with start(limits={limit: 4}) as setup, connected(setup, 4) as silent:
        for client in silent:
            client.send(sent)
        async with connected(setup, 3) as others:
            for client in others:
                client.send(GET + b"\r\n")
                assert await client.status() == 200


async def test_where_all_have_a_request_in_work_a_new_client_is_told(
    start: Start, engine: Upstream
) -> None:
    async with start(limits={"max_connections": 3, "max_connections_per_peer": 3}) as setup:
        setup.board.know(["m"])
        waiting = [
            asyncio.create_task(setup.http.post("/v1/chat/completions", json=CHAT)) for _ in "ab"
        ]
        await until(lambda: pending(setup) == 2)
        async with connected(setup) as (third,):
            third.send(GET + b"\r\n")
            assert await third.status() == 200
            third.send(
                b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
            )
            await until(lambda: pending(setup) == 3)
            async with connected(setup) as (fourth,):
                assert await fourth.status() == 503
                assert b"retry-after" in (said := await fourth.rest()) and b"too many" in said
        setup.board.open("m", engine.address("m"))
        assert [(await one).status_code for one in waiting] == [200, 200]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        *((b"", 0), (GET, 408), (POST, 408), (POST + b"x" * 50_000, 408)),
        (POST.replace(b"Content-Length: 100000", b"Transfer-Encoding: chunked") + b"5\r\nab", 408),
    ],
)
async def test_a_request_that_does_not_arrive_is_given_up(
    start: Start, sent: bytes, status: int
) -> None:
    async with (
        start(limits={"client_timeout_seconds": 0.3}) as setup,
        connected(setup) as (client,),
    ):
        client.send(sent)
        assert await client.status() == status
        assert not status or b"did not arrive in time" in await client.rest()
        assert setup.gateway._data._held.total == 0


async def test_a_later_request_has_the_same_time(start: Start) -> None:
    async with (
        start(limits={"client_timeout_seconds": 0.3}) as setup,
        connected(setup) as (client,),
    ):
        client.send(GET + b"\r\n" + GET)
        assert await client.status() == 200
        assert b"HTTP/1.1 408" in await client.rest()


async def test_a_body_that_arrives_slowly_is_awaited(start: Start, engine: Upstream) -> None:
    async with (
        start(limits={"client_timeout_seconds": 2.0}) as setup,
        connected(setup) as (client,),
    ):
        setup.board.open("m", engine.address("m", "kserve"))
        client.send(
            b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        )
        body = b'{"inputs": []' + b" " * 986 + b"}"
        for at in range(0, 1000, 100):  # longer than the time-out in all
            client.send(body[at : at + 100])
            await asyncio.sleep(0.25)
        assert await client.status() == 200


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /healthz?" + b"x" * MAX_LINE_BYTES + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (GET + b"x: " + b"y" * MAX_LINE_BYTES + b"\r\n\r\n", 431),
        (GET + b"x: " + b"y" * 2 * MAX_HEAD_BYTES, 431),
        (GET + b"x: 1\r\n" * MAX_HEADERS + b"\r\n", 431),
        (GET + (b"x: " + b"y" * 8000 + b"\r\n") * 9 + b"\r\n", 431),
        (GET + b"x: " + b"y" * (MAX_LINE_BYTES - 10) + b"\r\n\r\n", 200),
        (GET + b"x: 1\r\n" * (MAX_HEADERS - 1) + b"\r\n", 200),
    ],
    ids=["url", "line", "endless", "lines", "all", "long line", "many lines"],
)  # fmt: skip
async def test_headers_are_bounded(setup: Setup, head: bytes, status: int) -> None:
    for before in (b"", GET + b"\r\n"):
        async with connected(setup) as (client,):
            if before:
                client.send(before)
                assert await _answered(client, 200)
            client.send(head)
            assert await _answered(client, status)


async def _answered(client: Client, status: int) -> bool:
    """Whether the next answer has ``status``; reads it to its end."""
    async with asyncio.timeout(10):
        said = await client._reader.readuntil(b"\r\n\r\n")
        if status != 200:
            await client.rest()
    return said.startswith(b"HTTP/1.1 %d" % status)


async def test_what_frames_a_body_is_bounded_and_trailers_are_dropped(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.open("m", engine.address("m", "generic"))
    head = b"POST /models/m/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with connected(setup, 2) as (good, bad):
        good.send(head + b"2\r\nab\r\n0\r\nx-trailer: 1\r\n\r\n")
        assert await good.status() == 200
        assert engine.seen[0].body == b"ab" and "x-trailer" not in engine.seen[0].headers
        bad.send(head + b"2\r\nab\r\n0\r\nx: ")
        for _ in range(8):
            bad.send(b"y" * MAX_HEAD_BYTES)
            await asyncio.sleep(0)
        # Closed with bytes unread, so that the answer may be lost.
        assert await bad.status() in (0, 400)


@pytest.mark.parametrize(
    ("open_files", "most", "most_each", "expected"),
    [
        (1024, None, None, (384, 288)),
        (256, None, None, (64, 48)),
        (10**6, None, None, (MOST, MOST * 3 // 4)),
        (1024, 100, None, (100, 75)),
        (1024, 5000, None, (384, 288)),
        (1024, None, 10, (384, 10)),
    ],
)
def test_connections_leave_descriptors_for_the_service(
    open_files: int, most: int | None, most_each: int | None, expected: tuple[int, int]
) -> None:
    bounds = bounds_for(most=most, most_each=most_each, timeout_s=1, open_files=open_files)
    assert (bounds.most, bounds.most_each) == expected
    assert open_files - 2 * bounds.most >= min(256, open_files // 2)


def test_an_ipv6_network_is_one_peer() -> None:
    assert peer_of("2001:db8::1") == peer_of("2001:db8::ffff") != peer_of("2001:db8:0:1::1")
    assert peer_of("::ffff:10.0.0.1") == peer_of("10.0.0.1")
