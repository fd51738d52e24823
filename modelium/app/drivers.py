"""The drivers of the enabled runtimes."""

from __future__ import annotations

from modelium.config import Config
from modelium.models import RuntimeName
from modelium.ports import Clock, DeviceInventory, Runtime
from runtimes.llama_cpp.driver import llama_cpp_driver
from runtimes.loading.device_locks import DeviceLocks
from runtimes.process.sandbox import Sandbox, unavailable
from runtimes.vllm.driver import vllm_driver


def sandbox_problem() -> str:
    """Return why this machine cannot confine engines; empty if it can."""
    return unavailable()


def build_drivers(
    config: Config, clock: Clock, devices: DeviceInventory
) -> dict[RuntimeName, Runtime]:
    """Return the drivers of all enabled runtimes; client libraries are imported only where used."""
    state = config.orchestration.state
    # Engines that start at once on one GPU misjudge its free memory: they share locks.
    device_locks = DeviceLocks()
    sandbox = Sandbox(mode=config.sandbox.mode, hidden=(state,), writable=config.sandbox.writable)
    found: dict[RuntimeName, Runtime] = {}
    if config.ray_serve.enabled:
        from runtimes.ray.driver import RayServeDriver

        found[RuntimeName.RAY_SERVE] = RayServeDriver(
            config=config.ray_serve, state_directory=state, clock=clock, sandbox=sandbox
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
