"""How long a client may take, how a connection is ended, and the exact bounds of its bytes."""

from __future__ import annotations

import json

import pytest

from modelium.gateway.connections import (
    KEEP_ALIVE_S,
    LINGER_S,
    SLOWEST_BYTES_PER_S,
    STALLED_S,
    UNREAD_S,
)
from modelium.gateway.protocol import MAX_HEAD_BYTES, MAX_HEADERS, MAX_LINE_BYTES
from tests.modelium.gateway.wire import START, TIMEOUT_S, Line

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n"
CHUNKED = b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
LATER = 0.001


def refused(answer: bytes) -> tuple[int, str, str | None]:
    """Status, message and Retry-After of an answer of the protocol's own."""
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *rest = head.decode().split("\r\n")
    headers = dict(one.split(": ") for one in rest)
    assert headers["content-type"] == "application/json"
    assert headers["content-length"] == str(len(body))
    assert headers["connection"] == "close"
    return int(line.split()[1]), json.loads(body)["error"]["message"], headers.get("retry-after")


LATE = (408, "the request did not arrive in time", None)


# --- how long ------------------------------------------------------------------------------------


async def test_a_client_that_sends_nothing_has_the_timeout() -> None:
    line = Line()
    assert line.overdue(0, TIMEOUT_S, TIMEOUT_S + LATER) == [False, False, True]


async def test_a_first_head_has_the_timeout_from_the_connections_begin() -> None:
    line = Line()
    await line.send(GET[:-2], after=TIMEOUT_S - 1)
    assert line.overdue(TIMEOUT_S, TIMEOUT_S + LATER) == [False, True]


async def test_a_request_in_work_has_all_the_time() -> None:
    line = Line()
    await line.asked(GET)
    assert line.overdue(0, 10_000) == [False, False]
    assert line.protocol.yields(line.at(20_000)) is None


async def test_a_body_may_not_fall_below_the_slowest_rate() -> None:
    line = Line()
    least = round(SLOWEST_BYTES_PER_S * TIMEOUT_S)
    await line.asked(POST, after=5)
    await line.send(b"x" * least, after=10)
    assert line.overdue(5 + TIMEOUT_S - LATER, 5 + TIMEOUT_S) == [False, False]
    # From here on it is measured anew.
    await line.send(b"x" * (least - 1), after=30)
    assert line.overdue(5 + 2 * TIMEOUT_S - LATER, 5 + 2 * TIMEOUT_S) == [False, True]


async def test_the_rate_is_of_all_the_time_since_it_was_measured() -> None:
    line = Line()
    await line.asked(POST)
    await line.send(b"x" * round(SLOWEST_BYTES_PER_S * TIMEOUT_S), after=1)
    assert line.overdue(TIMEOUT_S + LATER) == [True]


async def test_a_body_that_is_not_read_is_not_awaited() -> None:
    line = Line()
    await line.asked(POST)
    line.protocol.flow.pause_reading()
    assert line.overdue(TIMEOUT_S + 10) == [False]
    line.protocol.flow.resume_reading()
    assert line.overdue(2 * TIMEOUT_S + 10 - LATER, 2 * TIMEOUT_S + 10) == [False, True]


async def test_a_body_is_discarded_for_a_while_after_its_answer() -> None:
    line = Line()
    request = await line.asked(POST)
    line.at(3)
    await request.answer()
    assert line.overdue(3 + LINGER_S, 3 + LINGER_S + LATER) == [False, True]


async def test_an_idle_connection_is_kept_alive() -> None:
    line = Line()
    request = await line.asked(GET)
    line.at(7)
    await request.answer()
    last = 7 + KEEP_ALIVE_S + TIMEOUT_S
    assert line.overdue(last, last + LATER) == [False, True]


@pytest.mark.parametrize(("begins", "answered", "since"), [(30, 7, 30), (5, 7, 7)])
async def test_a_further_head_has_the_timeout_from_its_begin_or_the_last_answer(
    begins: float, answered: float, since: float
) -> None:
    line = Line()
    request = await line.asked(GET)
    for at in sorted((begins, answered)):
        line.at(at)
        if at == begins:
            await line.send(GET[:5])
        else:
            await request.answer()
    assert line.overdue(since + TIMEOUT_S, since + TIMEOUT_S + LATER) == [False, True]


async def test_a_further_body_has_a_time_of_its_own() -> None:
    line = Line()
    await (await line.asked(GET)).answer()
    await line.asked(POST, after=50)
    assert line.overdue(50 + TIMEOUT_S - LATER, 50 + TIMEOUT_S) == [False, True]


async def test_a_client_may_leave_its_answer_unread_for_a_while() -> None:
    line = Line()
    await line.asked(GET)
    line.at(200)
    line.protocol.pause_writing()
    assert line.overdue(200 + UNREAD_S, 200 + UNREAD_S + LATER) == [False, True]
    line.protocol.resume_writing()
    assert line.overdue(10_000) == [False]


async def test_what_waits_for_its_client_yields_since_then() -> None:
    line = Line()
    assert line.protocol.yields(line.at(4)) == START
    request = await line.asked(POST, after=5)
    await line.send(b"x", after=6)
    assert line.protocol.yields(line.at(6 + STALLED_S)) is None
    assert line.protocol.yields(line.at(6 + STALLED_S + LATER)) == START + 6
    line.at(9)
    await request.answer()
    assert line.protocol.yields(line.at(50)) == START + 9


# --- the end -------------------------------------------------------------------------------------


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    fresh, used = Line(), Line()
    await (await used.asked(GET)).answer()
    for line in (fresh, used):
        assert line.end() == b""
        assert (line.wire.closed, line.wire.aborted) == (True, False)


@pytest.mark.parametrize("part", [GET[:1], POST])
async def test_a_request_that_has_begun_is_told(part: bytes) -> None:
    line = Line()
    await line.send(part)
    assert refused(line.end()) == LATE
    assert (line.wire.closed, line.wire.aborted) == (True, False)
    if line.requests:
        assert await line.requests[0].receive() == {"type": "http.disconnect"}
        await line.requests[0].begin()
        assert line.wire.written.count(b"HTTP/1.1") == 1


async def test_a_further_request_that_has_begun_is_told() -> None:
    line = Line()
    await (await line.asked(GET)).answer()
    await line.send(GET[:1])
    assert refused(line.end()) == LATE


async def test_an_answer_that_has_begun_is_broken_off() -> None:
    line = Line()
    await (await line.asked(POST)).begin(5)
    assert line.end() == b""
    assert (line.wire.closed, line.wire.aborted) == (True, False)


async def test_who_does_not_read_is_cut_off() -> None:
    unread, closing = Line(), Line()
    await unread.asked(GET)
    unread.protocol.pause_writing()
    closing.wire.close()
    for line in (unread, closing):
        assert line.end() == b""
        assert line.wire.aborted


async def test_a_connection_is_counted_until_it_is_lost() -> None:
    line = Line(most=1)
    assert (len(line.guard), line.protocol.peer, line.wire.written) == (1, "10.0.0.1", b"")
    await line.asked(GET)
    second = Line(guard=line.guard)
    assert refused(second.wire.written) == (
        503, "the gateway has too many connections; retry", "5"
    )  # fmt: skip
    assert second.wire.closed
    await second.send(GET)
    assert second.requests == []
    second.protocol.connection_lost(None)
    line.protocol.connection_lost(None)
    assert len(line.guard) == 0
    assert await line.requests[0].receive() == {"type": "http.disconnect"}


async def test_a_connection_without_an_address_is_one_of_nobody() -> None:
    assert Line(peer=None).protocol.peer == ""


# --- bounds --------------------------------------------------------------------------------------

TOO_LARGE = (
    f"the headers exceed {MAX_HEADERS} lines, {MAX_LINE_BYTES} bytes in one of them, or "
    f"{MAX_HEAD_BYTES} bytes together"
)


async def test_a_head_is_bounded_while_it_arrives() -> None:
    line = Line()
    start = b"GET / HTTP/1.1\r\nx: "
    await line.send(start + b"y" * (MAX_HEAD_BYTES - 100 - len(start)))
    await line.send(b"y" * 100)
    assert not line.wire.written
    await line.send(b"y")
    assert refused(line.wire.written) == (431, TOO_LARGE, None)
    await line.send(b"y")
    assert line.wire.written.count(b"HTTP/1.1") == 1


def head(url: int, *headers: int) -> bytes:
    """A head with a URL and headers of these many bytes."""
    lines = b"".join(b"x: " + b"y" * (size - 1) + b"\r\n" for size in headers)
    return b"GET /" + b"u" * (url - 1) + b" HTTP/1.1\r\n" + lines + b"\r\n"


MOST = MAX_LINE_BYTES
URL = f"the URL exceeds {MAX_LINE_BYTES} bytes"


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        (head(MOST, 2), 200, ""),
        (head(MOST + 1, 2), 414, URL),
        (head(MOST + 1, *[2] * (MAX_HEADERS + 1)), 414, URL),
        (head(5, MOST), 200, ""),
        (head(5, MOST + 1), 431, TOO_LARGE),
        (head(5, *[2] * MAX_HEADERS), 200, ""),
        (head(5, *[2] * (MAX_HEADERS + 1)), 431, TOO_LARGE),
        (head(9, MOST, MOST, MOST, MOST - 9), 200, ""),
        (head(10, MOST, MOST, MOST, MOST - 9), 431, TOO_LARGE),
    ],
    ids=["url", "long url", "long url, many", "line", "long line", "many", "too many", "all", "more"],
)  # fmt: skip
@pytest.mark.parametrize("before", [b"", GET], ids=["alone", "behind another"])
async def test_each_part_of_a_head_is_bounded(
    sent: bytes, status: int, said: str, before: bytes
) -> None:
    line = Line()
    await line.send(before + sent)
    if status == 200:
        assert not line.wire.written
        assert len(line.requests) == 1
    else:
        assert refused(line.wire.written) == (status, said, None)
        assert line.wire.closed


async def test_what_is_no_http_is_a_400() -> None:
    line = Line()
    await line.send(b"\x00\r\n\r\n")
    assert line.wire.written.startswith(b"HTTP/1.1 400 ")
    assert line.wire.written.endswith(b"Invalid HTTP request received.")


FRAMED = (400, "the body's chunks have more framing than content", None)


@pytest.mark.parametrize(
    ("body", "credit"),
    [
        (b"", 0),
        (b"a" * 100, 900 - len(b"64\r\n" + b"\r\n") - 100),
        (b"a" * 30_000, MAX_HEAD_BYTES - len(b"\r\n")),
    ],
    ids=["nothing", "little", "much"],
)
async def test_framing_is_bounded_by_the_content_that_came(body: bytes, credit: int) -> None:
    line = Line()
    await line.asked(CHUNKED)
    if body:
        await line.send(b"%x\r\n" % len(body) + body)
        await line.send(b"\r\n")
    extension = b"1;" + b"x" * (MAX_HEAD_BYTES + credit - 2)
    await line.send(extension)
    assert not line.wire.written
    await line.send(b"x")
    assert refused(line.wire.written) == FRAMED
    await line.send(b"x")
    assert line.wire.written.count(b"HTTP/1.1") == 1
    assert await line.requests[0].receive() == {"type": "http.disconnect"}


async def test_requests_on_one_connection_are_answered_in_turn() -> None:
    line = Line()
    first = await line.asked(GET + GET)
    assert line.protocol.flow.read_paused
    await first.answer()
    await line.send(b"")
    second = line.requests[1]
    await second.answer()
    assert line.wire.written.count(b"HTTP/1.1 200") == 2
    assert not line.protocol.flow.read_paused
    third = await line.asked(POST)
    await line.send(b"abc")
    assert await third.receive() == {"type": "http.request", "body": b"abc", "more_body": True}
