"""The connection between the service and a worker, without a process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from modelium.clock import SystemClock
from modelium.gateway.access.keyring import Keyring
from modelium.gateway.problems import HttpProblem
from modelium.gateway.workers import channel as channels
from modelium.gateway.workers.channel import Channel, Frame
from modelium.gateway.workers.link import ACK_S, Link
from modelium.gateway.workers.turnstile import Turnstile
from modelium.models.api_keys import ApiKey
from tests.fakes import virtual_time
from tests.modelium.gateway.workers.test_counts import HERE, THERE, service


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"virtual-time": virtual_time.VirtualTimeLoop}


class Wire(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def is_closing(self) -> bool:
        return self.aborted

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def write(self, data: Any) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted = True

    def frames(self) -> list[Frame]:
        found: list[Frame] = []
        reader = Channel(on_frame=found.append, on_end=lambda: None)
        reader.data_received(self.written)
        return found


def framed(*frame: Any) -> bytes:
    body = json.dumps(frame).encode()
    return len(body).to_bytes(4, "big") + body


async def no_keys() -> dict[str, ApiKey]:
    return {}


def linked(kill: Callable[[str], None] = lambda why: None) -> tuple[Link, Wire]:
    link = Link(
        share=2,
        keys=Keyring(read=no_keys, clock=SystemClock(), important_teams=frozenset()),
        ledger=lambda openings: service(openings, [])[1],
        kill=kill,
    )
    wire = Wire()
    link.channel.connection_made(wire)
    return link, wire


async def test_frames_arrive_whole_however_they_are_cut() -> None:
    found: list[Frame] = []
    reader = Channel(on_frame=found.append, on_end=lambda: None)
    for byte in framed("a", 1) + framed("b", "é\ud800") + framed("c"):
        reader.data_received(bytes([byte]))
    assert found == [["a", 1], ["b", "é\ud800"], ["c"]]


async def test_a_frame_that_is_too_long_ends_the_connection() -> None:
    wire, reader = Wire(), Channel(on_frame=lambda frame: None, on_end=lambda: None)
    reader.connection_made(wire)
    reader.data_received((channels.MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
    assert wire.aborted


async def test_a_side_that_reads_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "MAX_UNREAD_BYTES", 100)
    wire, writer = Wire(), Channel(on_frame=lambda frame: None, on_end=lambda: None)
    writer.connection_made(wire)
    writer.send("x" * 50)
    assert not wire.aborted
    writer.send("x" * 50)
    assert wire.aborted


async def test_limits_are_divided_and_a_new_upstream_has_a_new_number() -> None:
    link, wire = linked()
    link.limit(max_waiting_per_model=5, max_waiting=0, max_wait_s=3.0)
    for upstream in (HERE, HERE, THERE):
        link.open("m", upstream, version=1)
    link.close("m")
    link.open("m", THERE, version=1)
    frames = wire.frames()
    assert frames[0] == ["limit", 3, 0, 3.0]
    numbers = [frame[4] for frame in frames if frame[0] == "open"]
    assert numbers[0] == numbers[1] and len(set(numbers)) == 3


async def test_a_worker_that_does_not_answer_is_ended_and_has_drained() -> None:
    reasons: list[str] = []

    def kill(reason: str) -> None:
        reasons.append(reason)
        link.channel.connection_lost(None)

    link, _ = linked(kill)
    assert await link.drained("m", timeout_s=5.0)  # not up yet: it has no requests
    link.channel.data_received(framed("up"))
    began = asyncio.get_running_loop().time()
    assert await link.drained("m", timeout_s=5.0)
    assert asyncio.get_running_loop().time() - began == pytest.approx(ACK_S, abs=1)
    assert reasons == [f"it did not answer within {ACK_S:g} s"]


async def test_a_drain_waits_as_long_as_it_may() -> None:
    link, wire = linked()
    link.channel.data_received(framed("up"))
    draining = asyncio.create_task(link.drained("m", timeout_s=5.0))
    await asyncio.sleep(0)
    link.channel.data_received(framed("answer", wire.frames()[-1][1], True))
    await asyncio.sleep(0)
    word, number, *rest = wire.frames()[-1]
    assert (word, rest) == ("drain", ["m", 5.0])
    link.channel.data_received(framed("answer", number, False))
    assert not await draining


async def test_a_key_whose_client_has_gone_while_it_was_asked_gives_its_place_back() -> None:
    asked: list[int] = []
    left: list[str] = []
    stile = Turnstile(ask=lambda number, key: asked.append(number), left=left.append)
    entering = asyncio.create_task(stile.enter("hash"))
    await asyncio.sleep(0)
    entering.cancel()
    await asyncio.gather(entering, return_exceptions=True)
    stile.answered(asked[0], None)
    assert left == ["hash"]
    refused = asyncio.create_task(stile.enter("hash"))
    await asyncio.sleep(0)
    stile.answered(asked[1], (429, "too many", "rate-limited", 2.0))
    with pytest.raises(HttpProblem, match="too many"):
        await refused
