"""Who gives way to a new connection, and how many there may be."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Iterator

import pytest

from modelium.gateway.connections import (
    OPEN_FILES,
    Bounds,
    Connections,
    bounds_for,
    peer_of,
    raise_open_files,
)
from tests.fakes.virtual_time import VirtualTimeLoop


class One:
    """A connection that waits for its client since ``since``."""

    def __init__(self, peer: str, since: float | None = None, *, late: float = 1e9) -> None:
        self.peer, self.since, self.late = peer, since, late
        self.ended: list[float] = []
        self.asked: list[float] = []

    def yields(self, now: float) -> float | None:
        self.asked.append(now)
        return self.since

    def overdue(self, now: float) -> bool:
        self.asked.append(now)
        return now > self.late

    def end(self) -> None:
        self.ended.append(self.asked[-1])


def connections(most: int, most_each: int) -> Connections:
    return Connections(bounds=Bounds(most=most, most_each=most_each, timeout_s=10.0))


def test_at_its_bound_an_address_loses_its_longest_waiting_connection() -> None:
    all_ = connections(10, 3)
    other = One("b", 1.0)
    busy, later, longest = One("a"), One("a", 6.0), One("a", 5.0)
    assert all(all_.add(one, 7.0) for one in (other, busy, later, longest))
    assert not longest.asked
    assert all_.add(One("a"), 8.0)
    assert (longest.ended, later.ended, other.ended, busy.ended) == ([8.0], [], [], [])
    assert (len(all_), all_.refused) == (4, 0)
    assert all_.add(One("a"), 9.0)
    assert later.ended == [9.0]
    refused = One("a", 1.0)
    assert not all_.add(refused, 10.0)
    assert (len(all_), all_.refused, refused.ended) == (4, 1, [])
    assert all_.add(One("b"), 10.0)


def test_at_the_bound_of_all_the_addresses_with_most_connections_give_way_first() -> None:
    all_ = connections(17, 17)
    few = One("few", 1.0)
    crowd = [One(f"crowd{i}") for i in range(8) for _ in range(2)]
    assert all(all_.add(one, 1.0) for one in (few, *crowd))
    assert not all_.add(One("new"), 2.0)
    crowd[-1].since = 5.0
    assert all_.add(One("new"), 3.0)
    assert (crowd[-1].ended, few.ended, len(all_), all_.refused) == ([3.0], [], 17, 1)


def test_a_refusal_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    all_ = connections(1, 1)
    all_.add(One("a"), 1.0)
    for _ in range(3):
        assert not all_.add(One("b"), 1.0)
    assert [record.getMessage() for record in caplog.records] == [
        "b: refused, the limit of connections is reached"
    ]
    assert all_.refused == 3


def test_what_is_removed_is_counted_once_and_forgotten() -> None:
    all_ = connections(2, 1)
    one = One("a")
    all_.add(one, 1.0)
    for _ in range(2):
        all_.remove(one)
        assert (len(all_), dict(all_._each)) == (0, {})
    assert all_.add(One("a"), 1.0)
    assert not all_.add(One("a"), 1.0)


@pytest.mark.parametrize(("timeout_s", "found_at"), [(2.0, 2.5), (40.0, 3.0)])
def test_overdue_connections_are_closed(timeout_s: float, found_at: float) -> None:
    all_ = Connections(bounds=Bounds(most=9, most_each=9, timeout_s=timeout_s))
    late, fine = One("a", late=2.0), One("a")
    all_.add(late, 0.0)
    all_.add(fine, 0.0)

    async def scene() -> None:
        watching = asyncio.create_task(all_.watch())
        await asyncio.sleep(found_at + 0.1)
        watching.cancel()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(scene())
    assert (late.ended, fine.ended) == ([found_at], [])


@pytest.mark.parametrize(
    ("open_files", "most", "most_each", "expected"),
    [
        (512, None, None, (128, 96)),
        (514, None, None, (129, 97)),
        (600, None, None, (172, 129)),
        (4, None, None, (1, 1)),
        (2, None, None, (1, 1)),
        (1024, 384, None, (384, 288)),
        (1024, 2, None, (2, 2)),
        (1024, 100, 100, (100, 100)),
        (1024, 100, 101, (100, 100)),
    ],
)
def test_bounds_follow_from_the_limit_of_open_files(
    open_files: int, most: int | None, most_each: int | None, expected: tuple[int, int]
) -> None:
    bounds = bounds_for(most=most, most_each=most_each, timeout_s=7.0, open_files=open_files)
    assert (bounds.most, bounds.most_each, bounds.timeout_s) == (*expected, 7.0)


@pytest.mark.parametrize(("most", "warned"), [(None, False), (384, False), (385, True)])
def test_a_bound_that_does_not_fit_is_warned_of(
    caplog: pytest.LogCaptureFixture, most: int | None, warned: bool
) -> None:
    caplog.set_level(logging.WARNING)
    bounds_for(most=most, most_each=None, timeout_s=1.0, open_files=1024)
    assert bool(caplog.records) is warned


INFINITE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "limit", "set_to"),
    [
        (1024, 4096, 4096, (4096, 4096)),
        (1024, OPEN_FILES * 2, OPEN_FILES, (OPEN_FILES, OPEN_FILES * 2)),
        (1024, INFINITE, OPEN_FILES, (OPEN_FILES, INFINITE)),
        (4096, 4096, 4096, None),
        (OPEN_FILES + 1, INFINITE, OPEN_FILES + 1, None),
        (INFINITE, INFINITE, OPEN_FILES, None),
    ],
)
def test_the_soft_limit_of_open_files_is_raised_as_far_as_it_may(
    monkeypatch: pytest.MonkeyPatch,
    soft: int,
    hard: int,
    limit: int,
    set_to: tuple[int, int] | None,
) -> None:
    done: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: done.append((kind, pair)))
    assert raise_open_files() == limit
    assert done == ([] if set_to is None else [(resource.RLIMIT_NOFILE, set_to)])


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    peer_of.cache_clear()
    yield


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8:0:0:ffff::1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix", "unix"),
        ("", ""),
    ],
)
def test_what_counts_as_one_peer(address: str, peer: str) -> None:
    assert peer_of(address) == peer
