"""Serves an ASGI application of a test in this process, on a free loopback port."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
import uvicorn.server


@contextlib.asynccontextmanager
async def served(app: Any, *, grace_s: int = 0) -> AsyncIterator[int]:
    """Serve ``app`` within the context; yields the port.

    ``grace_s``: seconds that open connections may take to end afterwards.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=grace_s,
        )
        server = _Guest(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


class _Guest(uvicorn.Server):
    """A server that does not handle the signals of the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


def brisk() -> None:
    """Have uvicorn pause for a twentieth from now on: it pauses 0.2 s for each stop."""
    uvicorn.server.asyncio = _Brisk()  # type: ignore[assignment]


class _Brisk:
    """asyncio with shorter pauses."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 20)
