"""Finds the cluster of a Ray Serve that already runs at `ray_serve.endpoint`.

Its HTTP proxy tells that it is Serve, but not to which cluster it belongs. That is read from the
process table: the proxy is a child of its node's raylet, whose command line names the GCS. Only
processes of this user or of root are believed: a client of a cluster runs what the cluster sends.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

import httpx

from modelium.errors import ConfigError
from runtimes.process import proc

PROBE_S = 5.0
"""Deadline of one request to the proxy; a healthy one answers in milliseconds."""
GCS = b"--gcs-address="
AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN")
"""What a client of the cluster needs from the environment that the cluster was started in."""


@dataclass(frozen=True, kw_only=True)
class RunningServe:
    """The cluster of a running Serve, on this machine."""

    address: str
    """``host:port`` of the GCS."""
    authentication: dict[str, str]
    """Environment variables that a client needs; never shown, as one may be the token."""


async def find(host: str, port: int) -> RunningServe | None:
    """Return the Serve whose proxy listens at ``host`` and ``port``; ``None``: nothing listens.

    Raises:
        ConfigError: something else listens there, or the cluster cannot be told.
    """
    if not await _listens(host, port):
        return None
    place = f"{host}:{port} of ray_serve.endpoint"
    if not await is_serve(host, port):
        raise ConfigError(
            f"{place} is taken by another program, which is not Ray Serve: stop that program, or "
            "set another port (0: any)"
        )
    found = await asyncio.to_thread(_cluster_behind, port)
    if found is None:
        raise ConfigError(
            f"a Ray Serve answers at {place}, but its processes cannot be seen from here, or "
            "are another user's: if you trust it, set ray_serve.address to its GCS (HOST:PORT), "
            "and run Modelium as a user of that machine"
        )
    return found


async def is_serve(host: str, port: int) -> bool:
    """Whether the server there answers as Serve's HTTP proxy does."""
    try:
        async with httpx.AsyncClient(timeout=PROBE_S, trust_env=False) as client:
            answer = await client.get(f"http://{host}:{port}/-/routes")
            # A proxy without applications answers 503 until the first one is there.
            health = await client.get(f"http://{host}:{port}/-/healthz")
        return _is_routes(answer) or health.text.strip() == "success"
    except httpx.HTTPError:
        return False


def _is_routes(answer: httpx.Response) -> bool:
    try:
        return answer.status_code == 200 and isinstance(answer.json(), dict)
    except ValueError:
        return False


async def _listens(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(PROBE_S):
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
    except OSError:  # TimeoutError too
        return False
    return True


def _cluster_behind(port: int) -> RunningServe | None:
    """Return the cluster whose raylet is an ancestor of the process that listens on ``port``."""
    trusted = {0, os.geteuid()}
    table = {pid: row for pid, row in proc.snapshot().items() if proc.users(pid) <= trusted}
    for pid in proc.listeners(port, table):
        process = table.get(pid)
        while process is not None:
            for argument in proc.command_line(process.pid).split(b"\0"):
                if argument.startswith(GCS):
                    return RunningServe(
                        address=argument.removeprefix(GCS).decode(),
                        authentication=proc.variables(process.pid, AUTHENTICATION),
                    )
            process = table.get(process.parent)
    return None
