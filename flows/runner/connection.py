"""The connection to a Prefect server that all of this process shares."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from pathlib import Path
from typing import Any

import certifi
import httpx
from prefect.context import AsyncClientContext

BUSY_DELAYS_S = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Between attempts while the server's SQLite is locked, which lasts for one short transaction.
Prefect's own client would sleep 2 s, then 4 s; it still does after these."""


def connection(api_url: str) -> AsyncClientContext:
    """A client context for ``api_url``; flow runs executed inside it share its client."""
    if not api_url.startswith("http://"):
        # Prefect's own transport knows the TLS settings, and such a server is not on SQLite.
        return AsyncClientContext()
    return AsyncClientContext(httpx_settings={"transport": PatientTransport()})


def trust(api_url: str, folder: Path) -> dict[str, Any]:
    """Prefect's settings for the certificates that clients of ``api_url`` trust.

    Prefect makes a TLS context for each client, and a client for each task, on plain HTTP too;
    reading all public roots into it would be two thirds of what recording costs. One is enough
    where none is used.
    """
    if not api_url.startswith("http://"):
        return {}
    end = "-----END CERTIFICATE-----\n"
    root = folder / "root.pem"
    folder.mkdir(parents=True, exist_ok=True)
    root.write_text(Path(certifi.where()).read_text().partition(end)[0] + end)
    return {"api.ssl_cert_file": str(root)}


class PatientTransport(httpx.AsyncHTTPTransport):
    """Asks again, soon, when the server answers 503 because its database is locked."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send ``request``; the server undoes what it answers 503 to."""
        for delay in BUSY_DELAYS_S:
            response = await super().handle_async_request(request)
            busy = response.status_code == HTTPStatus.SERVICE_UNAVAILABLE
            if not busy or "Retry-After" in response.headers:
                return response
            await response.aclose()
            await asyncio.sleep(delay)
        return await super().handle_async_request(request)
