"""Machines of one network as namespaces: a hub with a bridge, and a cable to each machine.

Everything lies in namespaces, the bridge too, so that the host's own network is never touched and
several runs do not meet.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

PREFIX = "mdl"
"""How the names of our namespaces begin; the process that made them follows."""

HUB = "hub"
SUBNET = "10.77.0"
CLONE_NEWNET = 0x40000000
RUN = Path("/run/netns")

NOT_PERMITTED = (
    "network namespaces cannot be made here ({why}): run as root with CAP_SYS_ADMIN and "
    "CAP_NET_ADMIN (in a container: `--privileged`), with the commands ip, tc and nsenter "
    "(`apt-get install iproute2 util-linux`)"
)


class Network:
    """A hub and machines that it joins. Use `network`, which clears everything away."""

    def __init__(self, machines: Sequence[str]) -> None:
        """Lay no cable yet."""
        self.machines = tuple(machines)
        self._names = {name: f"{PREFIX}-{os.getpid()}-{name}" for name in (HUB, *machines)}

    def lay(self) -> None:
        """Make the namespaces and the cables between them.

        Raises:
            AssertionError: the system does not permit it; the message says what to do.
        """
        missing = [name for name in ("ip", "tc", "nsenter") if not shutil.which(name)]
        assert not missing, NOT_PERMITTED.format(why=f"{', '.join(missing)}: not found")
        for name in self._names.values():
            made = _ip("netns", "add", name)
            assert not made, NOT_PERMITTED.format(why=made)
            self._do("-n", name, "link", "set", "lo", "up")
        hub = self._names[HUB]
        self._do("-n", hub, "link", "add", "br0", "type", "bridge")
        self._do("-n", hub, "addr", "add", f"{self.address(HUB)}/24", "dev", "br0")
        self._do("-n", hub, "link", "set", "br0", "up")
        for name in self.machines:
            own = self._names[name]
            self._do(
                *("-n", hub, "link", "add", name, "type", "veth", "peer", "name", "eth0"),
                *("netns", own),
            )
            self._do("-n", hub, "link", "set", name, "master", "br0", "up")
            self._do("-n", own, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            self._do("-n", own, "link", "set", "eth0", "up")

    def address(self, machine: str) -> str:
        """Return the IPv4 address of a machine, or of the hub."""
        return f"{SUBNET}.{11 + self.machines.index(machine) if machine != HUB else 1}"

    def within(self, machine: str, *, account: tuple[int, int] | None = None) -> list[str]:
        """Return what a command begins with that runs on ``machine``; ``account``: uid and gid."""
        user = [f"--setuid={account[0]}", f"--setgid={account[1]}"] if account else []
        return ["nsenter", f"--net={RUN / self._names[machine]}", *user, "--"]

    def enter(self, machine: str) -> None:
        """Move the calling thread to ``machine``: the sockets that it makes from now on are there."""
        assert threading.current_thread() is not threading.main_thread()
        file = os.open(RUN / self._names[machine], os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(file, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(file)

    # --- what happens to cables ---------------------------------------------------------------

    def cut(self, machine: str) -> None:
        """Pull the cable of ``machine`` out of the hub."""
        self._do("-n", self._names[HUB], "link", "set", machine, "down")

    def heal(self, machine: str) -> None:
        """Put it in again."""
        self._do("-n", self._names[HUB], "link", "set", machine, "up")

    @contextmanager
    def slow(self, machine: str, *, kbit_s: int) -> Iterator[None]:
        """Let the cable of ``machine`` carry this much a second while the body runs, both ways.

        Packets queue for up to 2 s, so that the round trip grows with what is sent. (Not every
        kernel has netem, which would delay each packet alike; tbf is everywhere.)
        """
        ends = ((self._names[HUB], machine), (self._names[machine], "eth0"))
        shape = f"tbf rate {kbit_s}kbit burst 4kb latency 2s".split()
        for name, device in ends:
            _run("tc", "-n", name, "qdisc", "add", "dev", device, "root", *shape)
        try:
            yield
        finally:
            for name, device in ends:
                _run("tc", "-n", name, "qdisc", "del", "dev", device, "root")

    # --- what runs there ----------------------------------------------------------------------

    def processes(self, machine: str) -> list[psutil.Process]:
        """Return what runs on ``machine``, by the namespace of each process."""
        return list(_inside({self._names[machine]}))

    def clear(self) -> None:
        """End whatever runs in the namespaces, and remove them."""
        _clear(set(self._names.values()))

    def _do(self, *words: str) -> None:
        failed = _ip(*words)
        assert not failed, f"ip {' '.join(words)}: {failed}"


@contextmanager
def network(machines: Sequence[str]) -> Iterator[Network]:
    """Yield a network that leaves nothing; those of runs that were killed are removed first."""
    _clear({path.name for path in _ours() if not psutil.pid_exists(int(path.name.split("-")[1]))})
    found = Network(machines)
    try:
        found.lay()
        yield found
    finally:
        found.clear()


def _ours() -> list[Path]:
    return list(RUN.glob(f"{PREFIX}-[0-9]*-*"))


def _clear(names: set[str]) -> None:
    for _ in range(10):  # what is killed may just have started something
        found = list(_inside(names))
        for process in found:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(found, timeout=5)
        if not found:
            break
    for name in names:
        _ip("netns", "del", name)


def _inside(names: set[str]) -> Iterator[psutil.Process]:
    inodes = {(RUN / name).stat().st_ino for name in names if (RUN / name).exists()}
    if not inodes:
        return
    for process in psutil.process_iter():
        try:
            inode = os.stat(f"/proc/{process.pid}/ns/net").st_ino
            alive = process.status() != psutil.STATUS_ZOMBIE
        except (OSError, psutil.Error):
            continue
        if inode in inodes and alive:
            yield process


def _ip(*words: str) -> str:
    """Run ip; return why it failed, empty where it did not."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    return (done.stderr.strip() or f"exit code {done.returncode}") if done.returncode else ""


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, f"{' '.join(command)}: {done.stderr.strip()}"
