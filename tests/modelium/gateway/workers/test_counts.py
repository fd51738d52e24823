"""What a worker counts is what the service would have counted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any

from modelium.clock import SystemClock
from modelium.gateway.access.keyring import KeyHolder
from modelium.gateway.workers.counts import Counts
from modelium.gateway.workers.ledger import Ledger
from modelium.metrics import Metrics
from modelium.models import Priority, Traffic
from modelium.models.api_keys import ApiKey
from modelium.routing.switchboard import Switchboard
from modelium.traffic import TrafficBook
from modelium.traffic.request_log import LoggedRequest
from tests.fakes import virtual_time
from tests.fakes.routing import Listener
from tests.modelium.routing.conftest import HERE, THERE


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"virtual-time": virtual_time.VirtualTimeLoop}


class Still(SystemClock):
    """One that stands still."""

    def time(self) -> float:
        return 1000.0

    def monotonic(self) -> float:
        return 1000.0


def service(openings: Mapping[str, int], logged: list[LoggedRequest]) -> tuple[Switchboard, Ledger]:
    board = Switchboard(
        traffic=TrafficBook(clock=Still()),
        listener=Listener(),
        metrics=Metrics(),
        max_waiting_per_model=9,
        max_wait_s=9.0,
    )
    board.know(["m", "n"])
    ledger = Ledger(
        switchboard=board,
        metrics=Metrics(),
        on_answered=logged.append,
        on_forwarded=None,
        openings=openings,
    )
    return board, ledger


def shown(book: TrafficBook) -> dict[str, Traffic]:
    # Sums of floats in another order; and of the highest numbers at once only the latest is exact.
    found = book.snapshot()
    return {
        name: t.model_copy(
            update={"concurrency": 0.0, "rates": tuple(round(rate, 9) for rate in t.rates)}
        )
        for name, t in found.items()
    }


async def test_batches_add_up_to_what_was_counted() -> None:
    chance = random.Random(7)
    logged: list[LoggedRequest] = []
    board, ledger = service({}, logged)
    counts, direct = Counts(send=ledger.apply), TrafficBook(clock=Still())
    flying: list[str] = []
    for number in range(2000):
        model = chance.choice("mn")
        match chance.randrange(6):
            case 0 | 1:
                for book in (counts, direct):
                    book.on_arrival(model)
                    book.on_started(model)
                flying.append(model)
            case 2 | 3 if flying:
                ended = flying.pop(chance.randrange(len(flying)))
                failed, latency_s = chance.random() < 0.2, round(chance.random(), 6)
                for book in (counts, direct):
                    book.on_finished(ended, latency_s=latency_s, failed=failed)
            case 4:
                for change in (1, -1):
                    counts.on_waiting(model, change, Priority.HIGH)
                    direct.on_waiting(model, change, Priority.HIGH)
            case _:
                entry = LoggedRequest(float(number), model, 3, number, 0.5)
                counts.on_logged(entry)
        if chance.random() < 0.05:
            await asyncio.sleep(0.2)  # in virtual time: a batch
    counts.flush()
    assert shown(board.traffic) == shown(direct)
    assert len(logged) > 100
    assert sorted(logged) == sorted(logged, key=lambda entry: entry.at)
    ledger.settle()
    after = board.traffic.snapshot()
    assert sum(t.in_flight for t in after.values()) == 0
    before = direct.snapshot()
    assert after["m"].failed == before["m"].failed + before["m"].in_flight


async def test_the_highest_number_at_once_is_told_even_where_it_has_passed() -> None:
    board, ledger = service({}, [])
    counts = Counts(send=ledger.apply)
    for _ in range(5):
        counts.on_started("m")
    for _ in range(5):
        counts.on_finished("m", latency_s=0.1, failed=False)
    for _ in range(3):
        counts.on_started("m")
    counts.flush()
    seen = board.traffic.snapshot()["m"]
    assert (seen.in_flight, seen.concurrency) == (3, 5)


async def test_answers_of_an_upstream_of_before_are_judged_no_more() -> None:
    openings = {"m": 1}
    board, ledger = service(openings, [])
    counts = Counts(send=ledger.apply)
    board.open("m", HERE)
    for failed in (False, True, True, False, True):
        counts.on_judged("m", 1, failed)
    counts.flush()
    assert (board.answers("m").total, board.answers("m").failed) == (5, 3)
    assert board.failing("m") == 1
    counts.on_judged("m", 1, True)
    board.open("m", THERE)
    openings["m"] = 2
    counts.on_suspect("m", 1)
    counts.on_lost("m", 1)
    assert board.answers("m").total == 0
    assert not board.is_suspect("m") and board.upstream("m") == THERE
    counts.on_lost("m", 2)
    assert board.upstream("m") is None


async def test_demand_is_sent_at_once_and_other_counts_within_a_moment() -> None:
    sent: list[tuple[dict[str, Any], list[Any]]] = []
    counts = Counts(send=lambda summed, batch: sent.append((summed, batch)))
    counts.on_arrival("m")
    assert sent == []
    counts.on_demand("m")
    assert [call[0] for call in sent[0][1]] == ["demand"] and sent[0][0]["m"][0] == 1
    counts.on_request_refused("m", "unavailable")
    await asyncio.sleep(0.11)
    assert sent[1] == ({}, [["refused", "m", "unavailable"]])


async def test_places_of_a_key_are_free_again_when_its_worker_has_ended() -> None:
    _, ledger = service({}, [])
    holder = KeyHolder(
        key=ApiKey(id="k", name="k", created_at=0, max_concurrent=2),
        priority=None,
        clock=Still(),
    )
    ledger.enter("hash", holder)
    ledger.enter("hash", holder)
    ledger.leave("hash")
    ledger.settle()
    for _ in range(2):
        holder.enter()
