from __future__ import annotations

import socket

import pytest

from modelium.errors import Unavailable
from runtimes.process.ports import PortRange


def test_ports_in_use_are_skipped() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        ports = PortRange(host="127.0.0.1", first=taken)
        first, second = ports.reserve(), ports.reserve()
        assert taken < first < second
        ports.release(first)
        assert ports.reserve() == first


def test_running_out_of_ports_says_what_to_do() -> None:
    ports = PortRange(host="127.0.0.1", first=65535)
    ports.add(65535)
    with pytest.raises(Unavailable, match="base_port"):
        ports.reserve()
