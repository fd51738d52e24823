"""Requests and answers as ASGI messages, without a socket."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from modelium.errors import (
    DeadlineExceeded,
    InputError,
    LoadFailed,
    ModeliumError,
    TransientError,
    Unavailable,
    UnknownModel,
)
from modelium.gateway.asgi import (
    WATCH_AFTER_S,
    BodyTooLarge,
    CancelOnDisconnect,
    ClientGone,
    header,
    peer,
    read_body,
    respond,
    respond_json,
)
from modelium.gateway.problems import HttpProblem, body_of, headers_of, status_of
from tests.fakes.virtual_time import VirtualTimeLoop


class Arriving:
    """What a server's ``receive`` returns, in order; then nothing."""

    def __init__(self, *parts: bytes | None, end: bool = True) -> None:
        self.left: list[dict[str, Any]] = [
            {"type": "http.disconnect"}
            if part is None
            else {"type": "http.request", "body": part, "more_body": at < len(parts) - 1 or not end}
            for at, part in enumerate(parts)
        ]

    async def __call__(self) -> Any:
        if not self.left:
            await asyncio.get_running_loop().create_future()
        return self.left.pop(0)


async def read(*parts: bytes | None, limit: int = 10, length: bytes | None = None) -> Any:
    """The body and the sizes that it grew by; or the kind of its error, and those sizes."""
    grown: list[int] = []
    headers = [] if length is None else [(b"content-length", length)]
    arriving = Arriving(*parts)
    try:
        body = await read_body({"headers": headers}, arriving, limit=limit, grow=grown.append)
    except (BodyTooLarge, ClientGone) as exc:
        return type(exc), grown, len(arriving.left)
    return body, grown, len(arriving.left)


async def test_a_body_is_read_whole_up_to_the_limit() -> None:
    assert await read(b"abc") == (b"abc", [3], 0)
    assert await read(b"abc", b"", b"de", b"") == (b"abcde", [3, 2], 0)
    assert await read(b"") == (b"", [], 0)
    assert await read(b"x" * 4, b"y" * 6) == (b"x" * 4 + b"y" * 6, [4, 6], 0)
    assert await read(b"x" * 4, b"y" * 7, b"z") == (BodyTooLarge, [4], 1)
    assert await read(b"x" * 4, None) == (ClientGone, [4], 0)
    bare = Arriving(b"")
    bare.left = [{"type": "http.request"}]
    assert await read_body({"headers": []}, bare, limit=1) == b""


@pytest.mark.parametrize(
    ("length", "refused"), [(b"10", False), (b"11", True), (b"x", False), (b"-11", False)]
)
async def test_a_body_that_announces_too_much_is_not_read(length: bytes, refused: bool) -> None:
    found, grown, left = await read(b"abc", length=length)
    assert (found, grown, left) == ((BodyTooLarge, [], 1) if refused else (b"abc", [3], 0))


async def test_what_a_part_raises_ends_the_reading() -> None:
    def full(size: int) -> None:
        raise Unavailable("full")

    arriving = Arriving(b"a", b"b")
    with pytest.raises(Unavailable):
        await read_body({"headers": []}, arriving, limit=9, grow=full)
    assert len(arriving.left) == 1


def test_a_header_is_the_first_of_its_name_and_a_peer_its_address() -> None:
    assert header([(b"a", b"1"), (b"b", b"\xe9"), (b"b", b"3")], b"b") == "é"
    assert header([(b"a", b"1")], b"b") is None
    assert peer({"client": ("10.0.0.1", 4000)}) == "10.0.0.1"
    assert peer({"client": None}) == peer({}) == ""


async def test_an_answer_is_two_messages() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await respond(send, 201, b"abc", [(b"x", b"1")])
    await respond_json(send, 400, {"a": [1, "é"]}, [(b"y", b"2")])
    text = json.dumps({"a": [1, "é"]}, separators=(",", ":")).encode()
    assert sent == [
        {"type": "http.response.start", "status": 201, "headers": [(b"x", b"1"), (b"content-length", b"3")]},
        {"type": "http.response.body", "body": b"abc"},
        {
            "type": "http.response.start",
            "status": 400,
            "headers": [
                (b"content-type", b"application/json"), (b"y", b"2"),
                (b"content-length", b"%d" % len(text)),
            ],
        },
        {"type": "http.response.body", "body": text},
    ]  # fmt: skip


# --- clients that leave --------------------------------------------------------------------------


def run(scene: Any) -> Any:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(scene)


async def working(arriving: Arriving, seconds: float) -> tuple[str, float]:
    """How the work ends, and when."""
    loop = asyncio.get_running_loop()
    try:
        async with CancelOnDisconnect(arriving):
            await asyncio.sleep(seconds)
    except ClientGone:
        task = asyncio.current_task()
        assert task is not None and task.cancelling() == 0
        return "gone", loop.time()
    return "done", loop.time()


def test_work_is_cancelled_when_its_client_has_left() -> None:
    assert run(working(Arriving(None), 5.0)) == ("gone", WATCH_AFTER_S)
    assert run(working(Arriving(b"", None), 5.0)) == ("gone", WATCH_AFTER_S)
    assert run(working(Arriving(), 5.0)) == ("done", 5.0)


def test_fast_work_is_not_watched() -> None:
    arriving = Arriving(None)
    assert run(working(arriving, WATCH_AFTER_S / 2)) == ("done", WATCH_AFTER_S / 2)
    assert len(arriving.left) == 1


def test_the_watch_ends_with_the_work() -> None:
    async def scene() -> int:
        await working(Arriving(), 1.0)
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert run(scene()) == 1


def test_a_cancellation_of_the_servers_own_goes_through() -> None:
    async def scene(arriving: Arriving, after: float) -> tuple[bool, int]:
        work = asyncio.create_task(working(arriving, 5.0))
        await asyncio.sleep(after)
        if arriving.left:
            await asyncio.sleep(0)
        work.cancel()
        await asyncio.wait([work])
        return work.cancelled(), work.cancelling()

    assert run(scene(Arriving(), 0.01)) == (True, 1)
    assert run(scene(Arriving(), 1.0)) == (True, 1)

    async def both() -> bool:
        """The client leaves and the server stops, before the work has noticed either."""
        work = asyncio.create_task(working(Arriving(None), 5.0))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(WATCH_AFTER_S, work.cancel)
        await asyncio.wait([work])
        return work.cancelled()

    assert run(both())


def test_other_errors_of_the_work_stay_what_they_are() -> None:
    async def scene() -> None:
        async with CancelOnDisconnect(Arriving()):
            raise KeyError("x")

    with pytest.raises(KeyError):
        run(scene())


# --- problems ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (HttpProblem(418, "x", reason="r"), 418, None),
        (HttpProblem(429, "x", reason="r", retry_after_s=0.2), 429, b"1"),
        (HttpProblem(429, "x", reason="r", retry_after_s=7.0), 429, b"7"),
        (HttpProblem(429, "x", reason="r", retry_after_s=7.1), 429, b"8"),
        (UnknownModel("x"), 404, None),
        (InputError("x"), 400, None),
        (LoadFailed("x"), 500, None),
        (Unavailable("x", retry_after_s=3.0), 503, b"3"),
        (Unavailable("x"), 503, b"5"),
        (TransientError("x"), 503, b"5"),
        (DeadlineExceeded("x"), 504, b"5"),
    ],
)
def test_an_error_has_a_status_and_says_when_to_retry(
    error: ModeliumError, status: int, retry: bytes | None
) -> None:
    assert status_of(error) == status
    assert headers_of(error) == ([] if retry is None else [(b"retry-after", retry)])


TOLD = {"error": {"reason": "r", "message": "m"}}


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/api/x", 400, TOLD),
        ("/hooks/x", 400, TOLD),
        ("/v2", 400, {"error": "m"}),
        ("/v2/models/m", 400, {"error": "m"}),
        ("/v2/health/x", 400, {"error": "m"}),
        *(
            (path, status, {"error": {"message": "m", "type": kind, "param": None, "code": "r"}})
            for path, status, kind in (
                ("/v2/rerank", 400, "invalid_request_error"),
                ("/x/api/", 404, "invalid_request_error"),
                ("/v1/x", 401, "authentication_error"),
                ("/v1/x", 403, "permission_error"),
                ("/v1/x", 429, "rate_limit_error"),
                ("/v1/x", 499, "invalid_request_error"),
                ("/v1/x", 500, "server_error"),
            )
        ),
    ],
)
def test_an_error_has_the_form_of_its_api(path: str, status: int, body: Any) -> None:
    assert body_of(path, status, "m", "r") == body
