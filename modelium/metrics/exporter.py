"""The HTTP server for scrapers."""

from __future__ import annotations

import asyncio
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import start_http_server

from modelium.config.hosts import authority
from modelium.errors import ConfigError


class Exporter:
    """Serves the metrics from its own threads, so that a scrape never delays a request.

    An async context manager. It requires no token, as scrapers expect: expose it on loopback or
    a trusted network only.
    """

    def __init__(self, *, registry: CollectorRegistry, host: str, port: int) -> None:
        """``port`` 0: any free one."""
        self._registry = registry
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
            self._server, self._thread = await asyncio.to_thread(
                start_http_server, self._port, addr=self._host, registry=self._registry
            )
        except OSError as exc:
            raise ConfigError(
                f"orchestration.metrics.prometheus_port: cannot listen on "
                f"{authority(self._host, self._port)} ({exc.strerror or exc}); use a free port "
                f"(Prometheus itself also uses 9090) or set prometheus_enabled: false"
            ) from exc
        return self

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
