"""One connection to an engine, byte by byte, without a socket; and the pool's own rules."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from modelium.errors import DeadlineExceeded, ModeliumError, Unavailable
from modelium.gateway.proxy import upstream as pool
from modelium.gateway.proxy.connection import BUFFER_BYTES, HEAD_BYTES, Connection, Interrupted
from modelium.gateway.proxy.message import COPIED_BYTES, end_to_end, request_of
from modelium.gateway.proxy.upstream import KEEP_ALIVE_S, Answer, UpstreamClient
from modelium.models import Upstream
from tests.modelium.gateway.wire import Wire

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
HEAD = OK[:-5]
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
AT = Upstream(host="h", port=1, served_name="m", apis=frozenset())
CLOSED = "the engine closed the connection"


class Pipe(Wire):
    """A socket whose buffer may be full."""

    waiting = 0

    def get_write_buffer_size(self) -> int:
        return self.waiting


def connected(*, has_body: bool = True, sent: bytes = b"GET") -> tuple[Connection, Pipe]:
    one, pipe = Connection(), Pipe()
    one.connection_made(pipe)
    one.send(sent, has_body=has_body)
    return one, pipe


async def rest(one: Connection) -> tuple[bytes, bool]:
    async with asyncio.timeout(5):
        return await one.chunk()


async def failure(one: Connection, *, head: bool = False) -> str:
    with pytest.raises(Interrupted) as exc:
        await (one.head() if head else rest(one))
    return str(exc.value)


async def test_a_whole_answer_leaves_the_connection_reusable_once_it_is_read() -> None:
    one, pipe = connected()
    assert (one.is_open, one.is_complete, one.is_reusable) == (True, False, False)
    one.data_received(OK)
    await one.head()
    assert (one.status, one.headers) == (200, [(b"content-length", b"5")])
    assert (one.is_complete, one.is_reusable) == (True, False)
    assert await rest(one) == (b"hello", False)
    assert one.is_reusable
    pipe.waiting = 1
    assert not one.is_reusable
    pipe.waiting = 0
    assert await rest(one) == (b"", False)
    one.send(b"one", b"two", has_body=True)
    assert (pipe.written, one.status, one.headers) == (b"GETonetwo", 0, [])
    assert (one.is_complete, one.is_reusable) == (False, False)
    one.data_received(CHUNKED + b"2\r\nab\r\n")
    assert await rest(one) == (b"ab", True)
    one.data_received(b"1\r\nc\r\n0\r\n\r\n")
    assert await rest(one) == (b"c", False)
    assert one.is_reusable


@pytest.mark.parametrize(
    ("answer", "reusable"),
    [
        (OK, True),
        (OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), False),
        (OK.replace(b"1.1", b"1.0"), False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", True),
    ],
)
async def test_a_connection_is_kept_as_the_engine_says(answer: bytes, reusable: bool) -> None:
    one, _ = connected()
    one.data_received(answer)
    await one.head()
    data, more = await rest(one)
    assert (data, more) == (b"hello" if b"hello" in answer else b"", False)
    assert one.is_reusable is reusable


async def test_the_answer_to_head_ends_with_its_head_and_the_connection() -> None:
    one, _ = connected(has_body=False)
    one.data_received(HEAD)
    await one.head()
    assert (one.is_complete, one.is_reusable) == (True, False)
    assert await rest(one) == (b"", False)
    one.data_received(b"hello")
    assert await rest(one) == (b"", False)
    assert not one.is_reusable


async def test_interim_answers_are_passed_over() -> None:
    one, _ = connected()
    waiting = asyncio.create_task(one.head())
    one.data_received(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
    await asyncio.sleep(0)
    assert not waiting.done()
    one.data_received(
        b"HTTP/1.1 199 Odd\r\n\r\n" + OK.replace(b"content-length", b"Content-LENGTH")
    )
    await waiting
    assert (one.status, one.headers) == (200, [(b"content-length", b"5")])


@pytest.mark.parametrize(
    ("answer", "error", "found"),
    [
        (HEAD + b"he", None, CLOSED),
        (HEAD + b"he", OSError("x"), "OSError: x"),
        (CHUNKED + b"2\r\nhe\r\n", None, CLOSED),
        (b"HTTP/1.1 200 OK\r\n\r\nhe", None, None),
        (b"HTTP/1.1 200 OK\r\n\r\nhe", OSError("x"), "OSError: x"),
    ],
)
async def test_a_connection_that_ends_fails_what_is_not_complete(
    answer: bytes, error: Exception | None, found: str | None
) -> None:
    one, _ = connected()
    one.data_received(answer)
    await one.head()
    assert await rest(one) == (b"he", True)
    reading = asyncio.create_task(rest(one))
    await asyncio.sleep(0)
    one.connection_lost(error)
    if found is None:
        assert await reading == (b"", False)
    else:
        with pytest.raises(Interrupted, match=found):
            await reading
        assert await failure(one) == found
    assert (one.is_open, one.is_reusable) == (False, False)


async def test_bytes_that_came_before_the_end_are_still_read() -> None:
    one, _ = connected()
    one.data_received(HEAD + b"he")
    one.connection_lost(None)
    assert await rest(one) == (b"he", True)
    assert await failure(one) == CLOSED


async def test_without_a_head_a_connections_end_is_a_failure() -> None:
    one, pipe = connected()
    one.data_received(b"HTTP/1.1 200 OK\r\n")
    one.connection_lost(None)
    assert await failure(one, head=True) == CLOSED
    one.send(b"more", has_body=True)
    assert pipe.written == b"GET"


async def test_what_is_no_http_fails_and_closes() -> None:
    one, pipe = connected()
    one.data_received(b"SSH-2.0\r\n\r\n")
    assert (await failure(one, head=True)).startswith("invalid HTTP/1.1 response: ")
    assert pipe.aborted
    late, pipe = connected()
    late.data_received(OK)
    assert await rest(late) == (b"hello", False)
    late.data_received(OK)
    assert (pipe.aborted, late.is_open) == (True, False)


@pytest.mark.parametrize(("size", "refused"), [(HEAD_BYTES, False), (HEAD_BYTES + 1, True)])
async def test_the_head_is_bounded(size: int, refused: bool) -> None:
    one, pipe = connected()
    line = b"x: " + b"y" * (size // 2 - 1) + b"\r\n"
    last = b"x: " + b"y" * (size - size // 2 - 1) + b"\r\n"
    one.data_received(b"HTTP/1.1 204 No Content\r\n" + line + last + b"\r\n")
    assert (pipe.aborted, one.is_open) == (refused, not refused)


async def test_an_engine_is_held_back_past_the_buffer_until_it_is_read() -> None:
    one, pipe = connected()
    one.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
    one.data_received(b"x" * (BUFFER_BYTES - 1))
    one.data_received(b"x")
    assert not pipe.paused
    one.data_received(b"x")
    assert pipe.paused
    data, more = await rest(one)
    assert (len(data), more, pipe.paused) == (BUFFER_BYTES + 1, True, False)
    one.data_received(b"x" * BUFFER_BYTES)
    assert not pipe.paused
    one.data_received(b"x")
    assert pipe.paused
    one.connection_lost(None)
    assert len((await rest(one))[0]) == BUFFER_BYTES + 1
    assert pipe.paused


async def test_only_a_client_that_waits_is_given_up() -> None:
    one, pipe = connected()
    one.expire()
    assert (one.is_open, pipe.aborted) == (True, False)
    waiting = asyncio.create_task(one.head())
    await asyncio.sleep(0)
    one.expire()
    with pytest.raises(TimeoutError):
        await waiting
    assert (one.is_open, pipe.aborted) == (False, True)
    one.connection_lost(None)
    with pytest.raises(TimeoutError):
        await one.head()


# --- requests ------------------------------------------------------------------------------------


def parts(method: str = "GET", body: bytes = b"", *headers: tuple[bytes, bytes], **at: Any) -> Any:
    return request_of(AT.model_copy(update=at), method, "/t", list(headers), body)


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [
        ("GET", b"", b""),
        ("GET", b"ab", b"content-length: 2\r\n"),
        ("DELETE", b"", b""),
        ("POST", b"", b"content-length: 0\r\n"),
        ("PUT", b"", b"content-length: 0\r\n"),
        ("PATCH", b"", b"content-length: 0\r\n"),
    ],
)
def test_a_request_has_a_length_where_it_has_or_may_have_a_body(
    method: str, body: bytes, length: bytes
) -> None:
    head = b"%s /t HTTP/1.1\r\nhost: h:1\r\naccept-encoding: identity\r\n" % method.encode()
    assert parts(method, body) == (head + length + b"\r\n" + body,)


def test_a_large_body_is_not_copied() -> None:
    small, large = b"x" * COPIED_BYTES, b"x" * (COPIED_BYTES + 1)
    (one,) = parts("POST", small)
    assert one.endswith(b"\r\n\r\n" + small)
    head, body = parts("POST", large)
    assert head.endswith(b"content-length: %d\r\n\r\n" % len(large))
    assert body is large


@pytest.mark.parametrize("first", [True, False])
def test_the_clients_encoding_is_the_only_one_asked_for(first: bool) -> None:
    own, other = (b"accept-encoding", b"gzip"), (b"x", b"1")
    headers = (own, other) if first else (other, own)
    (sent,) = parts("GET", b"", *headers, api_key="k", prefix="/p")
    assert sent.startswith(b"GET /p/t HTTP/1.1\r\nhost: h:1\r\n")
    assert sent.count(b"accept-encoding") == 1
    assert sent.endswith(b"\r\nauthorization: Bearer k\r\n\r\n")


def test_hop_by_hop_headers_and_those_that_connection_names_are_left_out() -> None:
    headers = [
        (b"x-a", b"1"),
        (b"connection", b"X-A , x-b"),
        (b"x-b", b"2"),
        (b"x-c", b"3"),
        (b"te", b"x"),
    ]
    dropped = frozenset({b"connection", b"te"})
    assert end_to_end(headers, dropped) == [(b"x-c", b"3")]
    assert end_to_end(headers[2:], dropped) == [(b"x-b", b"2"), (b"x-c", b"3")]


# --- the pool ------------------------------------------------------------------------------------


class Pool(UpstreamClient):
    """A pool whose connections the test makes, at times that it sets."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.now = 1000.0

    async def __aenter__(self) -> UpstreamClient:
        await super().__aenter__()
        real = self._loop
        stand: Any = type("Loop", (), {})()
        stand.time = lambda: self.now
        stand.call_later = real.call_later
        stand.create_connection = self._refused
        self._loop = stand
        return self

    async def _refused(self, *_: object, **__: object) -> None:
        raise ConnectionRefusedError

    def used(self, *, ago: float = 0.0, answer: bytes = OK) -> tuple[Connection, Pipe]:
        """A connection that has read its answer."""
        one, pipe = connected()
        one.data_received(answer)
        one._chunks = []
        one.used_at = self.now - ago
        return one, pipe


def idle(client: UpstreamClient) -> list[Connection]:
    return [one for list_ in client._idle.values() for one in list_]


async def test_the_connection_used_last_is_used_again() -> None:
    async with Pool() as client:
        assert isinstance(client, Pool)
        (older, _), (newer, _) = client.used(ago=2.0), client.used(ago=1.0)
        client.release(AT, older)
        client.release(AT, newer)
        assert (idle(client), client.connections) == ([older, newer], 2)
        assert await client.connection(AT) is newer
        assert await client.connection(AT) is older
        assert (idle(client), client.connections, client._busy) == ([], 2, {newer, older})
        client.release(AT, newer)
        assert client._busy == {older}
        client.release(AT.model_copy(update={"port": 2}), older)
        assert await client.connection(AT) is newer


@pytest.mark.parametrize(("ago", "kept"), [(KEEP_ALIVE_S - 0.01, True), (KEEP_ALIVE_S, False)])
async def test_an_idle_connection_is_not_used_when_the_engine_may_close_it(
    ago: float, kept: bool
) -> None:
    async with Pool() as client:
        assert isinstance(client, Pool)
        one, pipe = client.used(ago=ago)
        client.release(AT, one)
        if kept:
            assert await client.connection(AT) is one
        else:
            with pytest.raises(Unavailable):
                await client.connection(AT)
            assert pipe.aborted
        assert (pipe.aborted, idle(client)) == (not kept, [])


async def test_what_is_not_reusable_is_closed() -> None:
    async with Pool() as client:
        assert isinstance(client, Pool)
        one, pipe = client.used(answer=HEAD)
        client._busy.add(one)
        client.release(AT, one)
        assert (pipe.aborted, idle(client), client._busy) == (True, [], set())
        gone, pipe = client.used()
        client.release(AT, gone)
        gone.connection_lost(None)
        assert client.connections == 0
    late, pipe = client.used()
    client.release(AT, late)
    assert (pipe.aborted, idle(client)) == (True, [])


async def test_connections_that_are_idle_or_silent_for_too_long_are_closed() -> None:
    async with Pool(silence_timeout_s=100.0) as client:
        assert isinstance(client, Pool)
        other = AT.model_copy(update={"port": 2})
        (kept, live), (old, dead), (gone, lost) = (client.used(ago=3.0) for _ in range(3))
        old.used_at -= 0.01
        gone.connection_lost(None)
        client._idle = {pool._address(AT): [kept, old], pool._address(other): [gone]}
        (patient, open_), (silent, shut) = connected(), connected()
        for one, ago in ((patient, 100.0), (silent, 100.01)):
            one.used_at = client.now - ago
            client._busy.add(one)
        waits = [asyncio.create_task(one.head()) for one in (patient, silent)]
        await asyncio.sleep(0)
        client._sweep()
        assert [pipe.aborted for pipe in (live, dead, lost, open_, shut)] == [
            False, True, True, False, True,
        ]  # fmt: skip
        assert client._idle == {pool._address(AT): [kept]}
        with pytest.raises(TimeoutError):
            await waits[1]
        waits[0].cancel()
    assert (live.aborted, open_.aborted) == (True, True)
    assert (client._idle, client._busy, client._sweeping) == ({}, set(), None)


@pytest.mark.parametrize(("silence_s", "pause_s"), [(600.0, 1.0), (2.0, 0.5)])
async def test_the_sweep_comes_often_enough(silence_s: float, pause_s: float) -> None:
    async with UpstreamClient(silence_timeout_s=silence_s) as client:
        handle = client._sweeping
        assert handle is not None
        left = handle.when() - asyncio.get_running_loop().time()
        assert pause_s - 0.4 < left <= pause_s


# --- answers -------------------------------------------------------------------------------------


def answer(client: UpstreamClient, one: Connection, *, has_body: bool = True) -> Answer:
    client._idle[pool._address(AT)] = [one]
    one.used_at = asyncio.get_running_loop().time()
    return client.send(AT, method="GET" if has_body else "HEAD", target="/", headers=[], body=b"")


@pytest.mark.parametrize(
    ("kind", "events"),
    [(b"text/event-stream; charset=utf-8", True), (b"TEXT/Event-Stream", True), (b"x text/event-stream", False)],
)  # fmt: skip
async def test_an_answer_says_what_it_is(kind: bytes, events: bool) -> None:
    async with UpstreamClient() as client:
        one, _ = connected()
        asking = asyncio.create_task(answer(client, one).__aenter__())
        await asyncio.sleep(0)
        head = HEAD.replace(b"\r\n\r\n", b"\r\nserver: x\r\nContent-Type: %s\r\n\r\n" % kind)
        one.data_received(head)
        got = await asking
        assert got.headers == [(b"content-length", b"5"), (b"content-type", kind)]
        assert (got.status, got.is_event_stream, got.is_complete) == (200, events, False)
        one.data_received(b"hello")
        assert got.is_complete
        assert await got.chunk() == (b"hello", False)
        await got.__aexit__()
        assert idle(client) == [one]


@pytest.mark.parametrize(
    ("said", "has_body", "complete"),
    [
        (OK, True, True),
        (HEAD, False, False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True, False),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", True, False),
    ],
)
async def test_an_answer_without_a_body_is_none_that_one_chunk_returns(
    said: bytes, has_body: bool, complete: bool
) -> None:
    async with UpstreamClient() as client:
        one, _ = connected()
        asking = asyncio.create_task(answer(client, one, has_body=has_body).__aenter__())
        await asyncio.sleep(0)
        one.data_received(said)
        assert (await asking).is_complete is complete


@pytest.mark.parametrize(
    ("ends", "kind", "said"),
    [
        ("lost", Unavailable, "m: the engine does not answer (Interrupted); retry"),
        ("silent", DeadlineExceeded, "m: the engine did not answer within 60 s"),
    ],
)
async def test_an_engine_that_does_not_answer_is_told_and_its_connection_closed(
    ends: str, kind: type[ModeliumError], said: str
) -> None:
    async with UpstreamClient(silence_timeout_s=60.0) as client:
        one, pipe = connected()
        asking = asyncio.create_task(answer(client, one).__aenter__())
        await asyncio.sleep(0)
        if ends == "lost":
            one.connection_lost(None)
        else:
            one.expire()
        with pytest.raises(kind) as exc:
            await asking
        assert str(exc.value) == said
        assert kind is not Unavailable or exc.value.reason == "engine-unreachable"
        assert (pipe.aborted, client._busy) == (True, set())


async def test_a_request_that_is_cancelled_closes_its_connection() -> None:
    async with UpstreamClient() as client:
        one, pipe = connected()
        asking = asyncio.create_task(answer(client, one).__aenter__())
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert (pipe.aborted, client._busy) == (True, set())


async def test_a_silence_within_an_answer_interrupts_it() -> None:
    async with UpstreamClient(silence_timeout_s=60.0) as client:
        one, _ = connected()
        asking = asyncio.create_task(answer(client, one).__aenter__())
        await asyncio.sleep(0)
        one.data_received(HEAD)
        got = await asking
        reading = asyncio.create_task(got.chunk())
        await asyncio.sleep(0)
        one.expire()
        with pytest.raises(Interrupted, match=r"^no data for 60 s$"):
            await reading


async def test_nothing_is_asked_or_read_before_it_is_entered() -> None:
    client = UpstreamClient()
    with pytest.raises(RuntimeError, match="enter the client"):
        client.send(AT, method="GET", target="/", headers=[], body=b"")
    async with client:
        got = client.send(AT, method="GET", target="/", headers=[], body=b"")
        assert not got.is_complete
        with pytest.raises(RuntimeError, match="enter the answer"):
            await got.chunk()
        await got.__aexit__()
