"""uvicorn inside a process that it does not own, and the sockets that it serves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import cast

import uvicorn

from modelium.config.hosts import authority, bind
from modelium.errors import ConfigError
from modelium.gateway.asgi import App
from modelium.gateway.connections import KEEP_ALIVE_S, Connections
from modelium.gateway.protocol import GuardedProtocol

BACKLOG = 2048

HANDSHAKE_S = 10.0
"""How long a client may take to agree on TLS; until then it counts to no limit."""


class HttpServer(uvicorn.Server):
    """Serves an application on sockets that are listening."""

    def __init__(
        self,
        app: App,
        *,
        guard: Connections,
        grace_s: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Create it; `serve` runs until ``should_exit``, and then ends requests in ``grace_s``.

        ``tls``: has the certificate; ``None``: it speaks plain HTTP.
        """
        super().__init__(
            uvicorn.Config(
                app=app,
                interface="asgi3",
                # A class is expected, but only called.
                http=cast("type[asyncio.Protocol]", partial(GuardedProtocol, guard=guard)),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=round(KEEP_ALIVE_S),
                timeout_graceful_shutdown=max(1, round(grace_s)),
            )
        )
        self._tls = tls
        self.up = asyncio.Event()
        """Set once it answers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        # The process handles signals itself and ends the server during its shutdown.
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections."""
        if self._tls is None:
            await super().startup(sockets)
        else:
            await super().startup([])
            loop, config = asyncio.get_running_loop(), self.config
            protocol = partial(
                cast("Callable[..., asyncio.Protocol]", config.http_protocol_class),
                config=config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
            )
            for one in sockets or ():
                server = await loop.create_server(
                    protocol,
                    sock=one,
                    ssl=self._tls,
                    backlog=config.backlog,
                    # uvicorn leaves it at a minute.
                    ssl_handshake_timeout=HANDSHAKE_S,
                )
                self.servers.append(server)
        self.up.set()


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Return a listening socket, so that a taken port fails before anything is started.

    ``shared``: as of `bind`.

    Raises:
        ConfigError: the port is taken, or ``host`` is not an address of this machine.
    """
    try:
        listener = bind(host, port, shared=shared)
        try:
            listener.setblocking(False)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as exc:
        raise ConfigError(
            f"gateway.host, gateway.port: cannot listen on {authority(host, port)} "
            f"({exc.strerror or exc}); use an address of this machine and a free port"
        ) from exc
    return listener


def listen_shared(host: str, port: int, count: int) -> list[socket.socket]:
    """Return ``count`` listening sockets of one port; raises as `listen`.

    Nobody else listens there.
    """
    # Another service of this user that shares its port, too, would get half of the connections.
    with listen(host, port) as free:
        port = free.getsockname()[1]
    return [listen(host, port, shared=True) for _ in range(count)]


@contextlib.contextmanager
def short_path(folder: Path) -> Iterator[str]:
    """Yield a path of ``folder`` for the names of Unix sockets, which may have 107 bytes."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
