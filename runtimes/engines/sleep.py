"""Sleep and wake by vLLM's own routes: weights in host RAM, device memory given back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from modelium.errors import Unavailable

if TYPE_CHECKING:
    from runtimes.engines.host import EngineHost, Live

SLEEP_SETTING = "enable_sleep_mode"
DEADLINE_S = 120.0
"""Level 1 copies the weights to host RAM: seconds per ten GiB over PCIe."""
DRAIN_S = 30.0
"""Requests hang in a sleeping engine, so it has to be idle first."""


class EngineSleep:
    """Level-1 sleep."""

    def __init__(self, *, enabled: bool) -> None:
        """``enabled``: engines are started so that they can sleep."""
        self.enabled = enabled

    async def asleep(self, client: httpx.AsyncClient, live: Live) -> bool:
        """Whether the engine says that it sleeps."""
        if not self.enabled:
            return False
        try:
            answer = await client.get(f"{live.upstream.base_url}/is_sleeping")
            return bool(answer.raise_for_status().json()["is_sleeping"])
        except (httpx.HTTPError, ValueError, KeyError):
            return False

    async def sleep(self, host: EngineHost, live: Live) -> None:
        """Move the weights to host RAM and drop the KV cache.

        Raises:
            Unavailable: it is still busy, refused, or its memory did not come back.
        """
        model = live.engine.model
        if await self.asleep(host.client, live):
            return
        if not await host.idle(live, DRAIN_S):
            raise Unavailable(f"{model} still has requests: it cannot sleep now")
        async with host.turns.hold(live.gpus):
            await _order(host.client, live, "/sleep?level=1")
            if live.gpus and not await host.memory_returned(live.gpus, ()):
                raise Unavailable(f"{model} sleeps, but its device memory did not come back")

    async def wake(self, host: EngineHost, live: Live) -> None:
        """Undo `sleep`.

        Raises:
            Unavailable: it did not wake.
        """
        async with host.turns.hold(live.gpus):
            if await self.asleep(host.client, live):
                await _order(host.client, live, "/wake_up")


async def _order(client: httpx.AsyncClient, live: Live, path: str) -> None:
    try:
        answer = await client.post(f"{live.upstream.base_url}{path}", timeout=DEADLINE_S)
        answer.raise_for_status()
    except httpx.HTTPError as exc:
        raise Unavailable(
            f"the engine of {live.engine.model} did not obey {path} ({exc}): sleeping needs "
            f"`{SLEEP_SETTING}: true` in vllm.default_settings when it is loaded"
        ) from exc
