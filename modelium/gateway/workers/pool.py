"""The worker processes: started, watched, started again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelium.errors import Unavailable
from modelium.gateway.access.keyring import Keyring
from modelium.gateway.http_server import listen
from modelium.gateway.workers.ledger import Ledger
from modelium.gateway.workers.link import ACK_S, Link, Nodes
from modelium.gateway.workers.start import Start
from modelium.models.api_keys import ApiKey
from modelium.ports import Clock
from modelium.routing.switchboard import Switchboard

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "modelium.gateway.worker")
"""``-P``: modules in the working directory do not shadow ours, which are found under `ROOT`."""

ROOT = Path(__file__).parents[3]

START_S = 60.0
"""A worker imports for about a second; on a busy machine for longer."""

LOOK_S = 5.0
"""Pause between two looks at whether a worker's event loop still runs."""

STABLE_S = 10.0
"""A worker that lived for so long is started again at once, on the socket that it had: connections
that it had not accepted yet are not lost. Another one's socket is closed for a pause, so that the
kernel gives them to the others."""

PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class WorkerPool:
    """An async context manager: entering starts the workers, leaving ends them."""

    def __init__(
        self,
        *,
        host: str,
        sockets: Sequence[socket.socket],
        switchboard: Switchboard,
        keys: Keyring,
        ledger: Callable[[Mapping[str, int]], Ledger],
        start: Callable[[], Start],
        failed: Callable[[str], None],
        clock: Clock,
        grace_s: float,
        nodes: Nodes | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """Start none yet.

        Args:
            host: that ``sockets`` listen on.
            sockets: one for each worker, which share a port.
            switchboard: its table is the workers'.
            keys: the API keys; their limits are counted here.
            ledger: returns what takes a worker's counts.
            start: returns what a worker is told first.
            failed: called with the name of a worker that has ended.
            clock: for pauses.
            grace_s: how long leaving waits for requests in flight.
            nodes: of the `Link`.
            command: starts a worker.
        """
        self._host = host
        self._port = sockets[0].getsockname()[1]
        self._sockets: list[socket.socket | None] = [*sockets]
        self._switchboard = switchboard
        self._keys = keys
        self._ledger = ledger
        self._start = start
        self._failed = failed
        self._clock = clock
        self._grace_s = grace_s
        self._nodes = nodes
        self._command = tuple(command)
        self._links: dict[int, Link] = {}
        self._processes: dict[int, Process] = {}
        self._given: Mapping[str, ApiKey] = {}
        self._ending = False

    async def __aenter__(self) -> WorkerPool:
        """Start all workers and wait until they answer.

        Raises:
            Unavailable: one does not.
        """
        self._keys.listen(self._on_keys)
        await self._keys.refresh()
        self._first: asyncio.Queue[bool] = asyncio.Queue()
        self._tasks = [
            asyncio.create_task(self._keep(number), name=f"gateway worker {number}")
            for number in range(len(self._sockets))
        ]
        for _ in self._tasks:
            if not await self._first.get():
                await self._stop(0.0)
                raise Unavailable("a worker of the gateway did not start; see the log")
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Have all workers finish their requests in flight."""
        await self._stop(self._grace_s)

    @property
    def pids(self) -> Mapping[int, int]:
        """Worker → its process."""
        return {number: process.pid for number, process in self._processes.items()}

    @property
    def is_ending(self) -> bool:
        """Whether no worker is started any more."""
        return self._ending

    def tell(self, *frame: Any) -> None:
        """Send a frame to every worker."""
        for link in self._links.values():
            link.channel.send(*frame)

    async def _on_keys(self, keys: Mapping[str, ApiKey]) -> None:
        """Give every worker what has changed, and wait until it applies."""
        if keys != self._given:
            self._given = dict(keys)
            links = tuple(self._links.values())
            for link in links:
                link.give(keys)
            await asyncio.gather(*(link.sync() for link in links if link.up.is_set()))

    async def _stop(self, grace_s: float) -> None:
        self._ending = True
        for held in self._sockets:
            if held is not None:
                held.close()
        self.tell("stop")
        await asyncio.wait(self._tasks, timeout=grace_s + ACK_S)
        for process in self._processes.values():
            _kill(process)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, number: int) -> None:
        """Have worker ``number`` run until the pool ends."""
        failures, first = 0, True
        while not self._ending:
            began = self._clock.monotonic()
            started = False
            try:
                held = self._sockets[number] or listen(self._host, self._port, shared=True)
                self._sockets[number] = held
                started = await self._run(number, held, self._first if first else None)
            except Exception:
                logger.exception("gateway worker %d", number)
            if first and not started:
                self._first.put_nowait(False)
            first = False
            if self.is_ending:
                return
            self._failed("gateway worker")
            if self._clock.monotonic() - began >= STABLE_S:
                failures = 0
                continue
            if (unused := self._sockets[number]) is not None:
                unused.close()
                self._sockets[number] = None
            await self._clock.sleep(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
            failures += 1

    async def _run(
        self, number: int, listener: socket.socket, first: asyncio.Queue[bool] | None
    ) -> bool:
        """Run one process to its end; return whether it has answered clients."""
        reasons: list[str] = []

        def kill(reason: str) -> None:
            reasons.append(reason)
            _kill(process)

        link = Link(
            share=len(self._sockets),
            keys=self._keys,
            ledger=self._ledger,
            kill=kill,
            nodes=self._nodes,
        )
        ours, theirs = socket.socketpair()
        with ours, theirs:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                str(theirs.fileno()),
                str(listener.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), listener.fileno()),
                # Ctrl-C is for the service, which has the workers finish their requests.
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            theirs.close()
            self._processes[number] = process
            looking = None
            try:
                loop = asyncio.get_running_loop()
                await loop.create_unix_connection(lambda: link.channel, sock=ours)
                link.channel.send("start", self._start().frame())
                link.give(self._given)
                self._links[number] = link
                self._switchboard.attach(link)
                link.channel.send("serve")
                if self._ending:
                    link.channel.send("stop")
                looking = asyncio.create_task(self._look(link, kill))
                await _either(link.up.wait(), link.ended.wait())
                if first is not None and link.up.is_set():
                    first.put_nowait(True)
                await link.ended.wait()
            finally:
                self._switchboard.detach(link)
                self._links.pop(number, None)
                if looking is not None:
                    looking.cancel()
                await _ended(process)
                del self._processes[number]
            if not self._ending:
                why = ", ".join(reasons) or f"exit status {process.returncode}"
                logger.warning(
                    "gateway worker %d has ended (%s) with its connections; it is started again",
                    number,
                    why,
                )
            return link.up.is_set()

    async def _look(self, link: Link, kill: Callable[[str], None]) -> None:
        """End a worker that does not start, or whose event loop stands still."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_S):
                await link.up.wait()
        if not link.up.is_set():
            kill(f"it did not start within {START_S:g} s")
            return
        while True:
            await self._clock.sleep(LOOK_S)
            await link.sync()


async def _either(*waits: Any) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _ended(process: Process) -> None:
    """Wait for the end of a process whose connection has ended."""
    try:
        async with asyncio.timeout(1.0):
            await process.wait()
    except TimeoutError:
        _kill(process)
        await process.wait()


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
