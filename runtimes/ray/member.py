"""The raylet of this machine in a Ray cluster of several nodes, where nobody else starts one.

A raylet exits when its node was cut off for a while and the network is back (ray 2.60); nothing but
another `ray start` brings it back. Models end with it, so it outlives Modelium.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from modelium.config.hosts import addresses
from modelium.devices.interfaces import interface_of
from modelium.errors import Unavailable
from modelium.ports import Clock
from runtimes.process import proc
from runtimes.process.sandbox import Sandbox
from runtimes.process.socket_folder import make_private, socket_folder
from runtimes.ray import ray_start
from runtimes.ray.cluster_record import marked
from runtimes.ray.running_serve import AUTHENTICATION, GCS

log = logging.getLogger(__name__)

START_S = 120.0
"""Of one `ray start`, as for a head."""
RAY_PATH = 71
"""Bytes of the longest path of a socket in Ray's temporary folder."""
LABEL = "modelium-node"
"""Of Ray's node, for people and their own applications: Modelium places by address."""


class Member:
    """Has this machine be a node of the cluster at ``address``."""

    def __init__(
        self,
        *,
        address: str,
        node: str,
        directory: Path,
        clock: Clock,
        sandbox: Sandbox | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            address: ``host:port`` of the GCS.
            node: name of this node.
            directory: keeps the mark and the logs.
            clock: time.
            sandbox: confines the raylet with all its models.
        """
        self._address = address
        self._node = node
        self._directory = directory
        self._clock = clock
        self._sandbox = sandbox
        self._raylet: tuple[int, int | None] | None = None

    def alive(self) -> bool:
        """Whether the raylet that was found or started still runs."""
        if self._raylet is None:
            return False
        pid, since = self._raylet
        return since is not None and proc.alive_since(pid) == since

    async def ensure(self) -> None:
        """Find the raylet of this machine, or start one.

        Raises:
            Unavailable: it did not start; the message ends with Ray's output.
        """
        if self._find():
            return
        await self.end()
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        make_private(self._temp)
        make_private(work := self._directory / "member-work")
        mark = secrets.token_hex(16)
        self._mark_path.write_text(mark)  # before the first process starts, for a crash
        argv = ray_start.command(
            *(f"--address={self._address}", f"--temp-dir={self._temp}"),
            f"--labels={LABEL}={self._node}",
        )
        environment: Mapping[str, str] = self._environment()
        if self._sandbox is not None:
            token = environment.get("RAY_AUTH_TOKEN_PATH")
            shown = (Path(token),) if token else ()
            argv_, environment, _ = self._sandbox.wrapped(
                argv, environment, work=work, shown=shown, writable=(self._temp,)
            )
            argv = list(argv_)
        await ray_start.run(
            argv,
            environment,
            mark=mark,
            work=work,
            output=self._directory / "member.log",
            limit_s=START_S,
        )
        if not self._find():
            raise Unavailable("ray start reported success, but no raylet runs on this machine")
        log.info("this machine is a node of the Ray cluster at %s", self._address)

    async def end(self) -> None:
        """End the raylet that was started here, with all its models; leave one of others."""
        self._raylet = None
        try:
            mark = self._mark_path.read_text().strip()
        except OSError:
            return
        if mark and (pids := await ray_start.end(mark, self._clock)):
            log.error("processes %s of Ray survive SIGKILL", pids)
            return
        self._mark_path.unlink(missing_ok=True)

    @property
    def own(self) -> bool:
        """Whether the raylet was started here; reads the process table."""
        try:
            return bool(marked(self._mark_path.read_text().strip()))
        except OSError:
            return False

    def _find(self) -> bool:
        """Note the raylet of the cluster in this machine's network, whoever started it."""
        ours = _network("self")
        host, _, port = self._address.rpartition(":")
        known = set(addresses(host))
        here = any(map(interface_of, known))
        for pid in proc.snapshot():
            if Path(_link(pid, "exe")).name != "raylet" or _network(pid) != ours:
                continue
            for argument in proc.command_line(pid).split(b"\0"):
                if not argument.startswith(GCS):
                    continue
                other, _, number = argument.removeprefix(GCS).decode().rpartition(":")
                # A head on this machine may be known by any of its addresses.
                same = known & set(addresses(other)) or (here and _is_here(other))
                if number == port and same:
                    self._raylet = (pid, proc.alive_since(pid))
                    return True
        return False

    def _environment(self) -> dict[str, str]:
        passed = {name: os.environ[name] for name in AUTHENTICATION if name in os.environ}
        return (
            ray_start.inherited()
            | passed
            | {
                "RAY_TMPDIR": str(self._temp),
                # Else the processes of replicas die with the raylet's connection.
                "RAY_kill_child_processes_on_worker_exit": "0",
            }
        )

    @property
    def _temp(self) -> Path:
        return socket_folder(self._directory / "member", longest_name=RAY_PATH)

    @property
    def _mark_path(self) -> Path:
        return self._directory / "member.mark"


def _is_here(host: str) -> bool:
    return any(map(interface_of, addresses(host)))


def _network(pid: int | str) -> str:
    """Return the network namespace of a process; empty: it cannot be read."""
    return _link(pid, "ns/net")


def _link(pid: int | str, name: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/{name}")
    except OSError:
        return ""
