"""One client's connection to the gateway's HTTP protocol, in memory and on the test's own clock."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from modelium.gateway.connections import Bounds, Connections
from modelium.gateway.protocol import GuardedProtocol

START = 1000.0
TIMEOUT_S = 20.0


class Wire(asyncio.Transport):
    """A socket that keeps what is written."""

    def __init__(self, peer: tuple[str, int] | None = ("10.0.0.1", 4000)) -> None:
        super().__init__({"peername": peer, "sockname": ("127.0.0.1", 8000)})
        self.written = b""
        self.closed = self.aborted = self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Request:
    """A request as the application got it; it is in work until `answer` is called."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        self.done = asyncio.Event()

    async def begin(self, length: int = 0) -> None:
        headers = [(b"content-length", b"%d" % length)]
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})

    async def answer(self) -> None:
        await self.begin()
        await self.send({"type": "http.response.body", "body": b""})
        self.done.set()


class Line:
    """A connection; time passes only by `at`."""

    def __init__(
        self,
        *,
        most: int = 100,
        guard: Connections | None = None,
        peer: tuple[str, int] | None = ("10.0.0.1", 4000),
    ) -> None:
        self.now = START
        self.requests: list[Request] = []
        bounds = Bounds(most=most, most_each=most, timeout_s=TIMEOUT_S)
        self.guard = guard or Connections(bounds=bounds)
        real = asyncio.get_running_loop()
        loop: Any = SimpleNamespace(
            time=lambda: self.now, create_task=real.create_task, call_later=real.call_later
        )
        self.protocol = GuardedProtocol(
            config=uvicorn.Config(
                app=self._app,
                interface="asgi3",
                ws="none",
                log_config=None,
                access_log=False,
                proxy_headers=False,
            ),
            server_state=ServerState(),
            app_state={},
            _loop=loop,
            guard=self.guard,
        )
        self.wire = Wire(peer)
        self.protocol.connection_made(self.wire)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests.append(Request(scope, receive, send))
        try:
            await self.requests[-1].done.wait()
        except asyncio.CancelledError:
            send.__self__.disconnected = True  # the test is over: no answer, which could wait
            raise

    def at(self, passed: float) -> float:
        """Set the time to ``passed`` seconds after the start, and return it."""
        self.now = START + passed
        return self.now

    async def send(self, data: bytes, *, after: float | None = None) -> None:
        """Have ``data`` arrive, and the application take its turn."""
        if after is not None:
            self.at(after)
        self.protocol.data_received(data)
        for _ in range(3):
            await asyncio.sleep(0)

    async def asked(self, data: bytes, *, after: float | None = None) -> Request:
        """Send what begins one request, and return it."""
        count = len(self.requests)
        await self.send(data, after=after)
        (found,) = self.requests[count:]
        return found

    def overdue(self, *passed: float) -> list[bool]:
        """Whether the client has taken too long, asked at each of these times."""
        return [self.protocol.overdue(self.at(seconds)) for seconds in passed]

    def end(self) -> bytes:
        """Have the connection ended, and return what was written by that."""
        before = len(self.wire.written)
        self.protocol.end()
        return self.wire.written[before:]
