"""401s: counted, logged and slowed, in bounded memory."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

import pytest

from modelium.gateway.access import strangers
from modelium.gateway.access.strangers import FREE, MISSING, Strangers
from modelium.gateway.problems import HttpProblem
from tests.fakes.clock import FakeClock
from tests.modelium.gateway.conftest import Start

TOKEN = "a-token-that-is-long-enough-for-anybody"


class Watch:
    """Strangers on a clock of the test's own."""

    def __init__(self, *, hurried: bool = True) -> None:
        self.clock = FakeClock(hurried=hurried)
        self.counts: Counter[str] = Counter()
        self.all = Strangers(clock=self.clock, count=lambda reason: self.counts.update([reason]))

    async def refused(self, peer: str = "10.0.0.1", reason: str = "wrong") -> None:
        await self.all.refused(peer, reason=reason, request="GET /v1/models")


async def test_wrong_credentials_are_slowed_past_a_few_and_only_for_their_address() -> None:
    watch = Watch()
    for _ in range(FREE):
        await watch.refused()
    assert watch.clock.slept == []
    await watch.refused()
    assert watch.clock.slept == [strangers.SLOW_S]
    await watch.refused("10.0.0.2")
    for _ in range(2 * FREE):
        await watch.refused("10.0.0.3", MISSING)
    assert len(watch.clock.slept) == 1
    watch.clock.advance(strangers.MINUTE_S)
    await watch.refused()
    assert len(watch.clock.slept) == 1
    assert watch.counts == {"wrong": FREE + 3, MISSING: 2 * FREE}


async def test_addresses_of_one_ipv6_network_are_one_peer() -> None:
    watch = Watch()
    for number in range(FREE + 1):
        await watch.refused(f"2001:db8::{number:x}")
    assert len(watch.clock.slept) == 1


@pytest.mark.parametrize(("each", "all_", "peers"), [(2, 9, ["a"] * 3), (9, 2, ["a", "b", "c"])])
async def test_few_answers_are_delayed_at_a_time(
    monkeypatch: pytest.MonkeyPatch, each: int, all_: int, peers: list[str]
) -> None:
    monkeypatch.setattr(strangers, "FREE", 0)
    monkeypatch.setattr(strangers, "MOST_SLOWED_EACH", each)
    monkeypatch.setattr(strangers, "MOST_SLOWED", all_)
    watch = Watch(hurried=False)
    first = [asyncio.create_task(watch.refused(peer)) for peer in peers[:2]]
    async with asyncio.timeout(10):
        await watch.clock.asleep(2)
    with pytest.raises(HttpProblem) as problem:
        await watch.refused(peers[2])
    assert (problem.value.status, problem.value.retry_after_s) == (429, strangers.SLOW_S)
    first[1].cancel()
    await asyncio.wait([first[1]])
    third = asyncio.create_task(watch.refused(peers[2]))
    await watch.clock.asleep(2)
    watch.clock.advance(strangers.SLOW_S)
    await asyncio.gather(first[0], third)


async def test_memory_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "MOST_PEERS", 3)
    watch = Watch()
    for number in range(10):
        await watch.refused(f"10.0.0.{number}")
    assert len(watch.all._peers) == 3


async def test_the_log_has_a_line_a_minute_for_an_address_and_few_for_all(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = Watch()
    for _ in range(5):
        await watch.refused()
    assert [record.getMessage() for record in caplog.records] == [
        "10.0.0.1: 401 wrong, 'GET /v1/models'"
    ]
    watch.clock.advance(strangers.MINUTE_S)
    await watch.refused()
    assert caplog.records[-1].getMessage().endswith("; 4 more since the last line")
    for number in range(2, 100):
        await watch.refused(f"10.0.0.{number}")
    assert len(caplog.records) == 1 + strangers.MOST_LINES + 1
    watch.clock.advance(strangers.MINUTE_S)
    await watch.refused("10.0.0.99")
    assert caplog.records[-1].getMessage().startswith("10.0.0.99: ")


async def test_the_gateway_slows_guesses_and_no_valid_token(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(strangers, "FREE", 1)
    monkeypatch.setattr(strangers, "MOST_SLOWED_EACH", 0)
    caplog.set_level(logging.INFO)
    right = {"authorization": f"Bearer {TOKEN}"}
    async with start(token=TOKEN, webhook_secret="s3cret") as setup:
        seen = []
        for word in ("guess-1", "guess-2", "mdl_guess-3"):
            answer = await setup.http.get(
                "/api/v1/models%1b%5b2J", headers={"authorization": f"Bearer {word}"}
            )
            seen.append(answer.status_code)
        assert seen == [401, 429, 429]
        assert (answer.headers["retry-after"], answer.headers["connection"]) == ("1", "close")
        assert answer.json()["error"]["reason"] == "too-many-refused"
        assert (await setup.http.get("/v1/models")).status_code == 401
        assert (await setup.http.get("/v1/models", headers=right)).status_code == 200
        hook = await setup.http.post("/hooks/ingest", json={"path": "x"}, headers=right)
        assert hook.status_code == 429
        text = setup.metrics.render().decode()
    for reason, count in (("wrong", 3), ("missing", 1), ("no-time", 1)):
        assert f'modelium_requests_unauthorized_total{{reason="{reason}"}} {count}.0' in text
    assert "127.0.0.1: 401 wrong" in caplog.text
    assert "guess" not in caplog.text
    assert "\x1b" not in caplog.text


async def test_a_peers_minute_is_over_after_a_minute() -> None:
    watch = Watch()
    for _ in range(FREE):
        await watch.refused()
    watch.clock.advance(strangers.MINUTE_S - 0.001)
    await watch.refused()
    assert watch.clock.slept == [strangers.SLOW_S]
    for _ in range(FREE):
        await watch.refused()
    assert len(watch.clock.slept) == 1
    await watch.refused()
    assert len(watch.clock.slept) == 2


async def test_who_was_noticed_first_is_forgotten_for_a_new_peer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(strangers, "MOST_PEERS", 2)
    watch = Watch()
    for peer in ("10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.2"):
        await watch.refused(peer)
    assert list(watch.all._peers) == ["10.0.0.1", "10.0.0.2"]
    await watch.refused("10.0.0.3")
    assert list(watch.all._peers) == ["10.0.0.2", "10.0.0.3"]


async def test_each_line_of_the_log_is_a_minute_after_the_last(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers, "MOST_LINES", 2)
    watch = Watch()
    watch.clock.advance(30.0)

    async def said(peer: str) -> list[str]:
        caplog.clear()
        await watch.refused(peer, MISSING)
        return [record.getMessage() for record in caplog.records]

    line = "10.0.0.{}: 401 missing, 'GET /v1/models'"
    assert await said("10.0.0.1") == [line.format(1)]
    watch.clock.advance(29.9)
    assert await said("10.0.0.1") == []
    assert await said("10.0.0.2") == [
        line.format(2),
        "further addresses with 401 are not logged for a minute",
    ]
    assert await said("10.0.0.3") == []
    watch.clock.advance(0.1)
    assert await said("10.0.0.3") == [line.format(3) + "; 1 more since the last line"]
    assert await said("10.0.0.1") == []
    watch.clock.advance(29.9)
    assert await said("10.0.0.1") == []
    watch.clock.advance(0.1)
    assert (await said("10.0.0.1"))[0] == line.format(1) + "; 3 more since the last line"
    watch.clock.advance(60.0)
    assert await said("10.0.0.1") == [line.format(1)]
