"""Whose Ray Serve is believed to be one: a client of a cluster runs what the cluster sends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from modelium.errors import ConfigError
from runtimes.process import proc
from runtimes.ray import running_serve

NOBODY = 65534
PROXY = """
import http.server, os, sys
class Proxy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")
    def log_message(self, *given):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Proxy)
os.setuid(int(sys.argv[1]))
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def raylet(user: int) -> Iterator[int]:
    """A process that listens as Serve's proxy does, and names a GCS as a raylet does."""
    command = [sys.executable, "-S", "-c", PROXY, str(user), "--gcs-address=127.0.0.1:6379"]
    environment = {"RAY_AUTH_TOKEN": "theirs"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline()
            assert port, "it did not start"
            yield int(port)
        finally:
            process.kill()


async def test_the_serve_of_this_user_is_used() -> None:
    with raylet(os.geteuid()) as port:
        found = await running_serve.find("127.0.0.1", port)
    assert found is not None and found.address == "127.0.0.1:6379"
    assert found.authentication == {"RAY_AUTH_TOKEN": "theirs"}


async def test_the_serve_of_another_user_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = r"another user's: if you trust it, set ray_serve\.address"
    user = os.geteuid()
    if user != 0:  # then it is this process that is another user's for once
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with raylet(user or NOBODY) as port, pytest.raises(ConfigError, match=said):
        await running_serve.find("127.0.0.1", port)


def test_a_process_that_is_gone_has_no_user() -> None:
    assert proc.users(os.getpid()) == {os.getuid(), os.geteuid()}
    assert proc.users(2**22 + 1) == frozenset()
