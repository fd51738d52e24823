from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from modelium.errors import Unavailable
from runtimes.process import ports as ports_module
from runtimes.process.ports import SPAN, PortRange, free_port


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


class System:
    """Binds to any port, without a socket; for port 0 it chooses those of ``chosen`` in turn."""

    def __init__(self, *chosen: int) -> None:
        self.chosen = list(chosen)
        self.asked: list[tuple[str, int]] = []

    def bind(self, host: str, port: int) -> System:
        self.asked.append((host, port))
        self.port = port or self.chosen.pop(0)
        return self

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def __enter__(self) -> System:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_ports_in_use_are_skipped(taken: int) -> None:
    ports = PortRange(host="127.0.0.1", first=taken)
    first, second = ports.reserve(), ports.reserve()
    assert taken < first < second
    ports.release(first)
    assert ports.reserve() == first


def test_a_port_is_free_where_a_server_could_listen_now(taken: int) -> None:
    assert free_port("127.0.0.1", taken) is None
    assert free_port("192.0.2.1") is None, "no address of this machine"
    chosen = free_port("127.0.0.1")
    assert chosen is not None and 1024 < chosen < 65536
    assert free_port("127.0.0.1", chosen) == chosen


def test_the_lowest_port_that_nobody_has_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System()
    monkeypatch.setattr(ports_module, "bind", system.bind)
    ports = PortRange(host="::1", first=8100)
    ports.add(8101)
    assert [ports.reserve() for _ in range(3)] == [8100, 8102, 8103]
    ports.release(8101)
    ports.release(8102)
    ports.release(9000)
    assert [ports.reserve() for _ in range(3)] == [8101, 8102, 8104]
    assert {host for host, _ in system.asked} == {"::1"}


@pytest.mark.parametrize(("first", "last"), [(8100, 8299), (65337, 65535), (65336, 65535)])
def test_running_out_of_ports_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, first: int, last: int
) -> None:
    system = System()
    monkeypatch.setattr(ports_module, "bind", system.bind)
    ports = PortRange(host="h", first=first)
    reserved = [ports.reserve() for _ in range(last + 1 - first)]
    assert reserved == list(range(first, last + 1))
    with pytest.raises(Unavailable) as failure:
        ports.reserve()
    assert str(failure.value) == (
        f"no free port on h from {first} to {first + 199}: set another base_port or stop the "
        "programs that listen there"
    )


def test_the_system_may_choose_each_port(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(5001, 5001, 5001, 5002, *[5001] * SPAN)
    monkeypatch.setattr(ports_module, "bind", system.bind)
    ports = PortRange(host="h", first=0)
    assert [ports.reserve(), ports.reserve()] == [5001, 5002]
    with pytest.raises(Unavailable):
        ports.reserve()
    assert system.asked == [("h", 0)] * (4 + SPAN)
