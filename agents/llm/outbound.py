"""Keeps requests to the LLM away from where clouds give out credentials."""

from __future__ import annotations

import asyncio

import httpx

from modelium.config.hosts import addresses, is_metadata


async def refuse_metadata(request: httpx.Request, *, allowed: frozenset[str]) -> None:
    """Refuse a request, or the redirect that led to it, to a link-local or metadata address.

    Raises:
        httpx.ConnectError: its host is or resolves to one, and is not ``allowed``.
    """
    host = request.url.host
    if host in allowed:
        return
    found = [host, *await asyncio.to_thread(addresses, host)]
    if any(map(is_metadata, found)):
        raise httpx.ConnectError(f"{host} is a link-local or metadata address")
