"""HTTP calls to a running engine: health, metrics, the served name, first request and sleep."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Mapping
from typing import Any

import httpx

from modelium.devices.listeners import listening_user
from modelium.models import Upstream
from modelium.ports import Clock, EngineStats
from runtimes.engines.bounded_http import BoundedHttp
from runtimes.engines.instance import EngineInstance
from runtimes.engines.recipe import EngineRecipe
from runtimes.process import proc

TIMEOUT_S = 5.0
"""Health and metrics answer in milliseconds; a busy engine may take a second."""
ANSWER_BYTES = 1024**2
"""Longest answer; they have some hundred bytes, but for the next two."""
METRICS_BYTES = 4 * 1024**2
"""Longest metrics: vLLM has about 100 KiB, and they are parsed on the event loop."""
POST_BYTES = 16 * 1024**2
"""Longest answer to a request: embeddings, for one, are long."""
UNREADABLE = (httpx.HTTPError, ValueError, KeyError, TypeError, RecursionError)
"""What is raised where an engine answers nothing, or something else than it should."""
IDLE_POLL_S = 0.25
IDLE_READINGS = 2
"""Consecutive readings without a request: the counters lag behind requests just admitted."""


class EngineClient:
    """Talks to the engines of one recipe."""

    def __init__(self, *, recipe: EngineRecipe, clock: Clock, timeout_s: float = TIMEOUT_S) -> None:
        """``recipe`` parses the metrics; ``timeout_s`` is for each call that names no other."""
        self._recipe = recipe
        self._clock = clock
        self._timeout_s = timeout_s
        self._http = BoundedHttp()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

    async def problem(self, instance: EngineInstance, pids: Iterable[int]) -> str:
        """Return what is wrong with ``instance``, whose processes are ``pids``; empty: nothing.

        A part that does not answer itself is judged by its connection to the one that does: it
        stays alive when that one is gone.
        """
        if not instance.rank:
            return await self.health_problem(instance.upstream, pids)
        address, port = instance.meeting or ("", 0)
        if proc.connected(port, pids):
            return ""
        return f"it is not connected to the part that answers, at {address}:{port}"

    async def health_problem(self, upstream: Upstream, pids: Iterable[int]) -> str:
        """Return what is wrong with the engine at ``upstream``; empty if it is healthy.

        Another program on the port is not taken for the engine, whose processes are ``pids``.
        """
        if not proc.listens(upstream.port, pids):
            return f"none of its processes listens on port {upstream.port}"
        try:
            health = await self._get(upstream, "/health", headers={})
        except httpx.HTTPError as exc:
            return f"/health does not answer: {type(exc).__name__}"
        if health.status_code == httpx.codes.OK:
            return ""
        return f"/health answers with status {health.status_code}"

    async def served_names(self, upstream: Upstream) -> list[str] | None:
        """Return the names of the models that the engine serves; None if it does not answer."""
        try:
            listed = await self._get(upstream, "/v1/models")
            if listed.status_code != httpx.codes.OK:
                return None
            return [str(entry["id"]) for entry in listed.json()["data"]]
        except UNREADABLE:
            return None

    async def stats(self, upstream: Upstream) -> EngineStats:
        """Return the engine's counters.

        Raises:
            httpx.HTTPError: it does not answer.
        """
        answer = await self._get(upstream, "/metrics", limit=METRICS_BYTES)
        return self._recipe.stats(answer.raise_for_status().text)

    async def wait_until_idle(self, upstream: Upstream, within_s: float) -> bool:
        """Wait until the engine has no request.

        Returns False if it still has one after ``within_s``, or if it does not answer.
        """
        deadline, idle_readings = self._clock.monotonic() + within_s, 0
        while True:
            try:
                stats = await self.stats(upstream)
            except httpx.HTTPError:
                return False
            idle_readings = 0 if stats.running or stats.waiting else idle_readings + 1
            if idle_readings == IDLE_READINGS:
                return True
            if self._clock.monotonic() >= deadline:
                return False
            await self._clock.sleep(IDLE_POLL_S)

    async def is_sleeping(self, upstream: Upstream) -> bool:
        """Whether the engine reports that it sleeps."""
        try:
            answer = await self._get(upstream, "/is_sleeping")
            return bool(answer.raise_for_status().json()["is_sleeping"])
        except UNREADABLE:
            return False

    async def post(
        self,
        upstream: Upstream,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        timeout_s: float,
    ) -> httpx.Response:
        """Send a POST request, with the engine's key, and return the response.

        Raises:
            httpx.HTTPError: no response within ``timeout_s``.
        """
        return await self._http.call(
            "POST",
            f"{upstream.base_url}{path}",
            body=body,
            headers=await self._authorization(upstream),
            timeout_s=timeout_s,
            limit=POST_BYTES,
        )

    async def _get(
        self,
        upstream: Upstream,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        limit: int = ANSWER_BYTES,
    ) -> httpx.Response:
        """Send a GET request, with the engine's key unless other ``headers`` are given."""
        if headers is None:
            headers = await self._authorization(upstream)
        return await self._http.call(
            "GET",
            f"{upstream.base_url}{path}",
            headers=headers,
            timeout_s=self._timeout_s,
            limit=limit,
        )

    async def _authorization(self, upstream: Upstream) -> dict[str, str]:
        """Return the header with the engine's key, which nobody else may get.

        Raises:
            httpx.ConnectError: a program of another user listens there, or none.
        """
        found = await asyncio.get_running_loop().getaddrinfo(
            upstream.host, upstream.port, type=socket.SOCK_STREAM
        )
        address = str(found[0][4][0])
        if upstream.user not in (None, listening_user(address, upstream.port)):
            raise httpx.ConnectError(f"no program of this user listens on port {upstream.port}")
        return {"Authorization": f"Bearer {upstream.api_key}"}
