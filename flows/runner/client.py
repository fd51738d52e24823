"""The client of the Prefect server that the whole process shares."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from pathlib import Path
from typing import Any

import certifi
import httpx
from prefect.context import AsyncClientContext

BUSY_DELAYS_S = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Between attempts while the server's SQLite is locked by a short transaction. Prefect's own client
waits 2 s, then 4 s; it still does so after these."""


def connection(api_url: str) -> AsyncClientContext:
    """Return a client context for ``api_url``; flow runs executed inside it share its client."""
    if not api_url.startswith("http://"):
        # Prefect's own transport has the TLS settings, and such a server does not use SQLite.
        return AsyncClientContext()
    return AsyncClientContext(httpx_settings={"transport": RetryingTransport()})


def trust(api_url: str, folder: Path) -> dict[str, Any]:
    """Return Prefect's settings for the certificates that clients of ``api_url`` trust.

    Prefect makes a TLS context for each client, and a client for each task, for plain HTTP too.
    Loading all public roots is two thirds of the cost of recording, so plain HTTP gets one root.
    """
    if not api_url.startswith("http://"):
        return {}
    end = "-----END CERTIFICATE-----\n"
    root = folder / "root.pem"
    folder.mkdir(parents=True, exist_ok=True)
    root.write_text(Path(certifi.where()).read_text().partition(end)[0] + end)
    return {"api.ssl_cert_file": str(root)}


class RetryingTransport(httpx.AsyncHTTPTransport):
    """Retries soon when the server answers 503 because its database is locked."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send ``request``; the server rolls back what it answers 503 to."""
        for delay in BUSY_DELAYS_S:
            response = await super().handle_async_request(request)
            busy = response.status_code == HTTPStatus.SERVICE_UNAVAILABLE
            if not busy or "Retry-After" in response.headers:
                return response
            await response.aclose()
            await asyncio.sleep(delay)
        return await super().handle_async_request(request)
