"""The client to the engines, against engines that answer byte by byte as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from modelium.errors import Unavailable
from modelium.gateway.proxy.connection import BUFFER_BYTES, HEAD_BYTES
from modelium.gateway.proxy.upstream import Answer, Interrupted, UpstreamClient
from modelium.models import Upstream
from tests.modelium.gateway.conftest import until

pytestmark = pytest.mark.slow

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


@contextlib.asynccontextmanager
async def engine(script: Script) -> AsyncIterator[Upstream]:
    """Where ``script`` serves each connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await script(reader, writer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield Upstream(host="127.0.0.1", port=port, served_name="m", apis=frozenset({"openai"}))


async def request(reader: asyncio.StreamReader) -> bytes:
    """Read one request, whole."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return head + await reader.readexactly(length)


def answering(*parts: bytes, keep: bool = True) -> Script:
    """Answer each request of a connection with ``parts``, each in a packet of its own."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request(reader)
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.002)
            if not keep:
                return

    return script


def asked(
    client: UpstreamClient, at: Upstream, method: str = "POST", body: bytes = b"{}"
) -> Answer:
    return client.send(at, method=method, target="/x", headers=[], body=body)


async def whole(answer: Answer) -> bytes:
    parts, more = b"", True
    while more:
        part, more = await answer.chunk()
        parts += part
    return parts


@pytest.fixture
async def client() -> AsyncIterator[UpstreamClient]:
    async with UpstreamClient() as entered:
        yield entered


@pytest.mark.parametrize(
    ("parts", "keep"),
    [
        ((OK,), True),
        ([OK[i : i + 1] for i in range(len(OK))], True),
        ((b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n", b"3\r\nllo\r\n0\r\n\r\n"), True),
        ((b"HTTP/1.1 100 Continue\r\n\r\n", OK), True),
        ((b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + OK,), True),
        ((b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo"), False),
        ((b"HTTP/1.0 200 OK\r\n\r\nhello",), False),
    ],
)  # fmt: skip
async def test_answers_in_every_framing_are_read_whole(
    client: UpstreamClient, parts: tuple[bytes, ...], keep: bool
) -> None:
    async with engine(answering(*parts, keep=keep)) as at:
        for _ in range(3):
            async with asked(client, at) as answer:
                assert answer.status == 200
                assert b"link" not in dict(answer.headers)
                assert await whole(answer) == b"hello"


@pytest.mark.parametrize(
    "parts",
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello",),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", b"nonsense\r\n"),
    ],
)
async def test_what_breaks_off_is_not_taken_for_whole(
    client: UpstreamClient, parts: tuple[bytes, ...]
) -> None:
    async with engine(answering(*parts, keep=False)) as at, asked(client, at) as answer:
        got = b""
        with pytest.raises(Interrupted):
            while True:
                part, more = await answer.chunk()
                got += part
                assert more
        assert got == b"hello"


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (b"HTTP/1.1 200 OK\r\ncontent-le",),
        (b"SSH-2.0-OpenSSH_9.2\r\n",),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * (HEAD_BYTES + 1) + b"\r\n\r\n",),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nhello",),
    ],
)
async def test_an_engine_that_does_not_answer_in_http_is_unreachable(
    client: UpstreamClient, parts: tuple[bytes, ...]
) -> None:
    async with engine(answering(*parts, keep=False)) as at:
        with pytest.raises(Unavailable) as refused:
            async with asked(client, at):
                raise AssertionError("it answered")
        assert refused.value.reason == "engine-unreachable"


async def test_failed_exchanges_leave_nothing_behind(client: UpstreamClient) -> None:
    async with engine(answering(b"nonsense\r\n\r\n", keep=False)) as at:
        for _ in range(3):
            with pytest.raises(Unavailable):
                async with asked(client, at):
                    raise AssertionError("it answered")
        waiting = asyncio.create_task(asked(client, at).__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert client.connections == 0


async def test_a_connection_is_used_again_until_somebody_says_close(client: UpstreamClient) -> None:
    ports: list[int] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ports.append(writer.get_extra_info("peername")[1])
        for number in range(3):
            await request(reader)
            close = b"connection: close\r\n" if number == 2 else b""
            writer.write(OK.replace(b"content-length", close + b"content-length"))

    async with engine(script) as at:
        for _ in range(6):
            async with asked(client, at) as answer:
                assert await whole(answer) == b"hello"
    assert len(ports) == len(set(ports)) == 2


async def test_a_connection_that_the_engine_closed_while_idle_is_not_used(
    client: UpstreamClient,
) -> None:
    closed = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(OK)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        closed.set()

    async with engine(script) as at:
        for _ in range(5):
            closed.clear()
            async with asked(client, at) as answer:
                assert await whole(answer) == b"hello"
            await closed.wait()
            await until(lambda: client.connections == 0)


async def test_an_answer_that_is_left_unread_closes_its_connection(client: UpstreamClient) -> None:
    gone = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nhello")
        with contextlib.suppress(ConnectionError):
            assert not await reader.read(1)
        gone.set()

    async with engine(script) as at:
        async with asked(client, at) as answer:
            assert await answer.chunk() == (b"hello", True)
        await asyncio.wait_for(gone.wait(), 10)


async def test_head_requests_end_with_the_head(client: UpstreamClient) -> None:
    async with engine(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")) as at:
        for _ in range(2):
            async with asked(client, at, "HEAD", b"") as answer:
                assert dict(answer.headers)[b"content-length"] == b"5"
                assert await whole(answer) == b""


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_answers_without_a_body_need_no_length(client: UpstreamClient, status: bytes) -> None:
    async with engine(answering(b"HTTP/1.1 " + status + b"\r\n\r\n")) as at:
        for _ in range(2):
            async with asked(client, at) as answer:
                assert await whole(answer) == b""


async def test_an_engine_is_held_back_when_its_client_does_not_read(
    client: UpstreamClient,
) -> None:
    total = 64 * 1024 * 1024
    sent = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        part = b"x" * 65536
        while sent < total:
            writer.write(part)
            await writer.drain()
            sent += len(part)

    async with engine(script) as at, asked(client, at) as answer:
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.1)
        assert sent < total
        first, _ = await answer.chunk()
        assert len(first) <= BUFFER_BYTES + 256 * 1024
        assert len(first) + len(await whole(answer)) == total


async def test_an_early_answer_to_a_large_request_is_read(client: UpstreamClient) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")
        await writer.drain()
        await read.wait()  # closing with unread data would reset the connection

    read = asyncio.Event()
    async with engine(script) as at, asked(client, at, body=b"x" * 8_000_000) as answer:
        assert (answer.status, await whole(answer)) == (413, b"no")
        read.set()


async def test_what_is_sent_is_one_plain_request(client: UpstreamClient) -> None:
    seen: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await request(reader))
            writer.write(OK)

    async with engine(script) as at:
        own = at.model_copy(update={"prefix": "/p", "api_key": "secret"})
        headers = [
            (b"host", b"evil"),
            (b"connection", b"x-hop"),
            (b"x-hop", b"1"),
            (b"transfer-encoding", b"chunked"),
            (b"authorization", b"Bearer client"),
            (b"x-kept", b"1"),
        ]
        async with client.send(
            own, method="POST", target="/x?a=b", headers=headers, body=b"hi"
        ) as a:
            await whole(a)
        async with client.send(at, method="GET", target="/y", headers=[], body=b"") as a:
            await whole(a)
    assert seen == [
        b"POST /p/x?a=b HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nx-kept: 1\r\n"
        b"authorization: Bearer secret\r\naccept-encoding: identity\r\ncontent-length: 2\r\n\r\nhi"
        % at.port,
        b"GET /y HTTP/1.1\r\nhost: 127.0.0.1:%d\r\naccept-encoding: identity\r\n\r\n" % at.port,
    ]


async def test_a_port_where_nobody_listens_is_unreachable(client: UpstreamClient) -> None:
    async with engine(answering(OK)) as at:
        pass
    with pytest.raises(Unavailable, match="does not answer"):
        async with asked(client, at):
            raise AssertionError("it answered")


async def test_an_engine_behind_a_unix_socket_answers(tmp_path: Path) -> None:
    path = str(tmp_path / "http")
    engine = Upstream(host="localhost", port=1, socket=path, served_name="m", apis=frozenset())
    async with UpstreamClient() as client:
        with pytest.raises(Unavailable):
            await client.connection(engine)
        async with await asyncio.start_unix_server(answering(OK), path):
            for _ in range(2):
                async with client.send(
                    engine, method="GET", target="/", headers=[], body=b""
                ) as answer:
                    assert await answer.chunk() == (b"hello", False)
            assert client.connections == 1, "one connection is kept"


async def test_another_users_program_on_the_port_of_an_engine_gets_nothing() -> None:
    got = bytearray()

    async def squatter(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        got.extend(await reader.read())

    async with engine(squatter) as there, UpstreamClient() as client:
        mine = there.model_copy(update={"api_key": "k", "user": os.getuid()})
        another = there.model_copy(update={"api_key": "k", "user": os.getuid() + 1})
        with pytest.raises(Unavailable):
            await client.connection(another)
        assert client.connections == 0
        client.release(mine, await client.connection(mine))
    assert not got
