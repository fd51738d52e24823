"""Sleep and wake through vLLM's routes: weights move to host RAM, device memory is freed."""

from __future__ import annotations

import httpx

from modelium.errors import Unavailable
from modelium.ports import Clock, DeviceInventory
from runtimes.engines.client import EngineClient
from runtimes.engines.instance import EngineInstance
from runtimes.loading.device_locks import DeviceLocks
from runtimes.process.gpu_release import wait_for_release

SLEEP_SETTING = "enable_sleep_mode"
DEADLINE_S = 120.0
"""Level 1 copies the weights to host RAM: seconds per ten GiB over PCIe."""
IDLE_S = 30.0
"""How long `EngineSleep.sleep` waits for requests in flight: they hang in a sleeping engine."""


class EngineSleep:
    """Level-1 sleep."""

    def __init__(
        self,
        *,
        enabled: bool,
        client: EngineClient,
        device_locks: DeviceLocks,
        devices: DeviceInventory,
        clock: Clock,
    ) -> None:
        """``enabled``: engines are started so that they can sleep."""
        self.enabled = enabled
        self._client = client
        self._device_locks = device_locks
        self._devices = devices
        self._clock = clock

    async def is_sleeping(self, instance: EngineInstance) -> bool:
        """Whether ``instance`` reports that it sleeps."""
        return self.enabled and await self._client.is_sleeping(instance.upstream)

    async def sleep(self, instance: EngineInstance) -> None:
        """Move the weights to host RAM and drop the KV cache.

        Raises:
            Unavailable: it is still busy, refuses, or did not free its memory.
        """
        if await self.is_sleeping(instance):
            return
        if not await self._client.wait_until_idle(instance.upstream, IDLE_S):
            raise Unavailable(
                f"{instance.model} cannot sleep: it still has requests after {IDLE_S:.0f} s"
            )
        async with self._device_locks.hold(instance.gpus):
            await self._post(instance, "/sleep?level=1")
            if instance.gpus and not await wait_for_release(
                self._devices, instance.gpus, (), self._clock
            ):
                raise Unavailable(f"{instance.model} sleeps, but did not free its device memory")

    async def wake(self, instance: EngineInstance) -> None:
        """Undo `sleep`.

        Raises:
            Unavailable: it did not wake.
        """
        async with self._device_locks.hold(instance.gpus):
            if await self.is_sleeping(instance):
                await self._post(instance, "/wake_up")

    async def _post(self, instance: EngineInstance, path: str) -> None:
        try:
            answer = await self._client.post(instance.upstream, path, timeout_s=DEADLINE_S)
            answer.raise_for_status()
        except httpx.HTTPError as exc:
            raise Unavailable(
                f"the engine of {instance.model} refused {path} ({exc}): set "
                f"`{SLEEP_SETTING}: true` in vllm.default_settings before it is loaded"
            ) from exc
