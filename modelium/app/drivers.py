"""The drivers of the enabled runtimes."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from modelium.config import Config
from modelium.models import RuntimeName
from modelium.ports import Clock, DeviceInventory, Runtime
from modelium.store.connection import is_shared, secret_files
from runtimes.llama_cpp.driver import llama_cpp_driver
from runtimes.loading.device_locks import DeviceLocks
from runtimes.process.sandbox import Sandbox, unavailable
from runtimes.vllm.driver import vllm_driver

logger = logging.getLogger(__name__)


def sandbox_problem() -> str:
    """Return why this machine cannot confine engines; empty if it can."""
    return unavailable()


def secrets(config: Config, file: Path | None) -> tuple[Path, ...]:
    """Return what no engine may read: state, store, the gateway's key, the configuration's file."""
    key = config.gateway.tls_key or config.gateway.tls_certificate  # which then has the key, too
    files = [Path(os.path.abspath(one)) for one in (file, key) if one]
    found = [config.orchestration.state, *files]
    return (*found, *secret_files(config.store_url(), os.environ))


def build_drivers(
    config: Config, clock: Clock, devices: DeviceInventory, file: Path | None = None
) -> dict[RuntimeName, Runtime]:
    """Return the drivers of all enabled runtimes; client libraries are imported only where used.

    ``file``: that of the configuration, which no engine may read.
    """
    state = config.orchestration.state
    # Engines that start at once on one GPU misjudge its free memory: they share locks.
    device_locks = DeviceLocks()
    sandbox = Sandbox(
        mode=config.sandbox.mode,
        hidden=secrets(config, file),
        shown=(config.orchestration.model_repository,),
        writable=config.sandbox.writable,
    )
    found: dict[RuntimeName, Runtime] = {}
    if config.ray_serve.enabled:
        from runtimes.ray.driver import RayServeDriver

        found[RuntimeName.RAY_SERVE] = RayServeDriver(
            config=config.ray_serve,
            state_directory=state,
            clock=clock,
            sandbox=sandbox,
            node=config.orchestration.node if is_shared(config.store_url()) else "",
        )
    if config.triton.enabled:
        from runtimes.triton.driver import TritonDriver

        found[RuntimeName.TRITON] = TritonDriver(
            config=config.triton,
            state_directory=state,
            clock=clock,
            devices=devices,
            device_locks=device_locks,
            sandbox=sandbox,
            models=config.orchestration.model_repository,
        )
    if config.vllm.enabled:
        found[RuntimeName.VLLM] = vllm_driver(
            config=config.vllm,
            state_directory=state,
            clock=clock,
            devices=devices,
            device_locks=device_locks,
            sandbox=sandbox,
        )
    if config.llama_cpp.enabled:
        found[RuntimeName.LLAMA_CPP] = llama_cpp_driver(
            config=config.llama_cpp,
            state_directory=state,
            clock=clock,
            devices=devices,
            device_locks=device_locks,
            sandbox=sandbox,
        )
    return found


@asynccontextmanager
async def connected(runtimes: Iterable[Runtime]) -> AsyncIterator[None]:
    """Enter ``runtimes`` in the background and leave them at the end: a sick one delays nobody."""
    async with AsyncExitStack() as stack:
        for runtime in runtimes:
            stack.push_async_exit(runtime)  # leaving needs no entering
        entering = [asyncio.create_task(_enter(runtime)) for runtime in runtimes]
        try:
            yield
        finally:
            for task in entering:
                task.cancel()
            await asyncio.gather(*entering, return_exceptions=True)


async def _enter(runtime: Runtime) -> None:
    """Enter ``runtime``; where that fails, its status says what is wrong."""
    try:
        await runtime.__aenter__()
    except Exception as exc:
        logger.warning("%s could not be connected to: %s", runtime.name.value, exc)
