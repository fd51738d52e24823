"""Files of other nodes, over HTTP from their gateways."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from urllib.parse import quote

import httpx

from modelium.errors import Unavailable
from modelium.intake.manifest import MAX_BYTES, BadManifest
from modelium.models import Node

PATH = "/peer/files"
HASH = "x-modelium-sha256"
"""Header of a chunk: its hash, which the sender takes as it reads it."""

WHOLE_S = 600.0
"""For one answer: a chunk, over a link of 0.5 Mbit/s four at once. Who drips has failed."""

MOST_ERROR = 2000
"""Bytes that are read of an error's body."""


class HttpFiles:
    """`ports.FileSources` over one client, which authenticates as this node."""

    def __init__(self, *, client: httpx.AsyncClient) -> None:
        """``client``: with this node's bearer, the certificates and time-outs."""
        self._client = client

    def of(self, node: Node) -> HttpSource | None:
        """Return how to fetch from ``node``; ``None``: it has no address for others."""
        address = node.report.address
        return HttpSource(self._client, node.name, address) if address else None


class HttpSource:
    """`ports.FileSource` of one node."""

    def __init__(self, client: httpx.AsyncClient, node: str, address: str) -> None:
        """``address``: URL of its gateway."""
        self.node = node
        self._client = client
        self._base = f"{address.rstrip('/')}{PATH}"

    async def manifest(self, model: str, version: int) -> bytes:
        """See `ports.FileSource.manifest`."""
        body, _headers = await self._get(f"/{quote(model)}@{version}", {}, most=MAX_BYTES)
        return body

    async def chunk(self, model: str, version: int, name: str, index: int, size: int) -> bytes:
        """See `ports.FileSource.chunk`."""
        query: dict[str, str | int] = {"file": name, "chunk": index}
        body, headers = await self._get(f"/{quote(model)}@{version}/chunk", query, most=size)
        if len(body) != size:
            raise BadManifest(f"a chunk of {name!r} has {len(body)} bytes instead of {size}")
        if hashlib.sha256(body).hexdigest() != headers.get(HASH):
            raise BadManifest(f"a chunk of {name!r} arrived damaged")
        return body

    async def _get(
        self, path: str, query: Mapping[str, str | int], *, most: int
    ) -> tuple[bytes, httpx.Headers]:
        """Return an answer's body, of at most ``most`` bytes, and its headers."""
        body = bytearray()
        try:
            async with (
                asyncio.timeout(WHOLE_S),
                self._client.stream("GET", self._base + path, params=query) as answer,
            ):
                bound = most if answer.status_code == 200 else MOST_ERROR
                async for part in answer.aiter_raw():
                    body += part
                    if len(body) > bound:
                        break
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as exc:
            raise Unavailable(f"does not answer ({type(exc).__name__} {exc})".strip()) from exc
        if answer.status_code != 200:
            raise Unavailable(
                f"answers {answer.status_code}: {body[:200].decode(errors='replace')}"
            )
        if len(body) > most:
            raise BadManifest(f"sends more than the {most} bytes that were asked for")
        return bytes(body), answer.headers
