"""The HTTP server for scrapers."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import socket
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from threading import BoundedSemaphore, Thread, Timer
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import make_wsgi_app

from modelium.config.hosts import authority
from modelium.errors import ConfigError

MOST = 16
"""Scrapes at once, each of which has a thread; further connections are closed."""

TIMEOUT_S = 10.0
"""For a whole scrape, as Prometheus' own; a silent client is disconnected then."""


class Exporter:
    """Serves the metrics from its own threads, so that a scrape never delays a request.

    An async context manager.
    """

    def __init__(
        self,
        *,
        registry: CollectorRegistry,
        host: str,
        port: int,
        token: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """``port`` 0: any free one. ``token``: scrapers must send it as a bearer token."""
        self._app = _guarded(make_wsgi_app(registry), token)
        self._timeout_s = timeout_s
        self._host = host
        self._port = port
        self._server: WSGIServer | None = None
        self._thread: Thread | None = None

    async def __aenter__(self) -> Exporter:
        """Listen.

        Raises:
            ConfigError: the port is taken, or the address is not this machine's.
        """
        try:
            # In a thread: the standard library's server resolves its own name by DNS.
            self._server = await asyncio.to_thread(self._listen)
        except OSError as exc:
            raise ConfigError(
                f"orchestration.metrics.prometheus_port: cannot listen on "
                f"{authority(self._host, self._port)} ({exc.strerror or exc}); use a free port "
                f"(Prometheus itself also uses 9090) or set prometheus_enabled: false"
            ) from exc
        self._thread = Thread(target=self._server.serve_forever, daemon=True, name="exporter")
        self._thread.start()
        return self

    def _listen(self) -> WSGIServer:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        timeout_s = self._timeout_s

        class Server(_Server):
            address_family = family

            def process_request_thread(self, request: Any, client_address: Any) -> None:
                cut = Timer(timeout_s, _cut, [request])
                cut.start()
                try:
                    super().process_request_thread(request, client_address)
                finally:
                    cut.cancel()

        return make_server(
            self._host, self._port, self._app, server_class=Server, handler_class=_Silent
        )

    async def __aexit__(self, *exc: object) -> None:
        if self._server is not None and self._thread is not None:
            await asyncio.to_thread(self._server.shutdown)
            await asyncio.to_thread(self._thread.join)
            self._server.server_close()

    @property
    def url(self) -> str:
        """``http://host:port``; the series are below at ``/metrics``."""
        if self._server is None:
            raise RuntimeError("enter the exporter before asking for its URL")
        return f"http://{authority(self._host, self._server.server_port)}"


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection, up to `MOST`."""

    daemon_threads = True

    def __init__(self, *args: Any, **settings: Any) -> None:
        self._room = BoundedSemaphore(MOST)
        super().__init__(*args, **settings)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: scrapers may disconnect."""


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


def _guarded(app: Callable[..., Iterable[bytes]], token: str | None) -> Callable[..., Any]:
    """Return ``app`` behind ``token``, if there is one."""
    expected = f"Bearer {token}".encode()

    def guarded(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        given = environ.get("HTTP_AUTHORIZATION", "").encode("latin-1", "replace")
        if token is None or hmac.compare_digest(given, expected):
            return app(environ, start)
        start("401 Unauthorized", [("WWW-Authenticate", 'Bearer realm="modelium"')])
        return [b"send gateway.token: Authorization: Bearer TOKEN\n"]

    return guarded


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed already
        connection.shutdown(socket.SHUT_RDWR)
