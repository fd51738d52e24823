"""Who listens on a port."""

from __future__ import annotations

import os
import socket

import pytest

from modelium.devices import listeners
from modelium.devices.listeners import listening_user


@pytest.mark.parametrize("diagnostics", [True, False])
@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0"])
def test_the_user_who_listens_is_found(
    bound: str, diagnostics: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not diagnostics:

        def refused(*_: object) -> int | None:
            raise PermissionError

        monkeypatch.setattr(listeners, "_asked", refused)
    with socket.create_server((bound, 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            assert listening_user("127.0.0.1", port) == os.getuid()
    assert listening_user("127.0.0.1", port) is None


def test_an_ipv6_address_is_no_ipv4_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert listening_user("::1", server.getsockname()[1]) is None


def test_a_listener_of_another_user_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.getuid() != 0:  # then this is another user for once: only root can start one of another
        user = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: user + 1)
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
        with socket.create_server(("127.0.0.1", 0)) as ours:
            assert listening_user("127.0.0.1", ours.getsockname()[1]) == user
        return
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    server.close()
    ready, told = os.pipe()
    child = os.fork()
    if not child:
        os.setuid(65534)
        taken = socket.create_server(("127.0.0.1", port))
        os.write(told, b".")
        taken.accept()
        os._exit(0)
    os.read(ready, 1)
    assert listening_user("127.0.0.1", port) == 65534
    socket.create_connection(("127.0.0.1", port)).close()
    os.waitpid(child, 0)
