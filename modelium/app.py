"""The composition root: builds everything, and starts and stops it in the order written here.

Start: store → Prefect (in the background) → runtimes → gateway and exporter → what an earlier
run left → control loop and drop zone. Stop: the reverse. Models and the servers that hold them
live on, so that a restart interrupts nothing; `end` ends them for good.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass

from agents.rules.planner import RulePlanner
from agents.rules.subprocess import PlannerSubprocess
from flows.runner.home import PrefectHome
from flows.table import FLOWS
from modelium.clock import SystemClock
from modelium.config import Config
from modelium.control import addresses, service_lock, teardown
from modelium.control.demand import Demand
from modelium.control.loop import Loop
from modelium.control.operations import Operations
from modelium.control.recovery import resume
from modelium.control.signals import Signals
from modelium.devices import detect
from modelium.gateway import Gateway
from modelium.gateway.proxy.names import Names
from modelium.intake.repository import Depot
from modelium.intake.watcher import Watch
from modelium.metrics import Metrics
from modelium.models import GIB, RuntimeName
from modelium.ports import Brain, Clock, DeviceInventory, Launcher, Runtime
from modelium.routing.switchboard import Switchboard
from modelium.stages.inline import InlineRunner
from modelium.stages.instrumented import counted
from modelium.stages.launcher import StageLauncher
from modelium.stages.runtime_monitor import Observer
from modelium.stages.services import Services, current, provide
from modelium.stages.table import STAGES
from modelium.store import AsyncStore, Store
from modelium.store.store import ignore
from modelium.traffic import TrafficBook
from runtimes.llama_cpp.driver import llama_driver
from runtimes.loading.device_turns import DeviceTurns
from runtimes.vllm.driver import vllm_driver

logger = logging.getLogger(__name__)

GIL_INTERVAL_S = 0.0001
"""How long another thread may hold up the gateway's event loop before it has to let go. Python's
own 5 ms would come on top of each request, several times, while one works."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A Modelium that is up."""

    services: Services
    prefect: PrefectHome | None
    gateway_url: str
    metrics_url: str | None

    def endpoints(self) -> dict[str, str | None]:
        """The addresses that people and the CLI use."""
        return {
            "gateway": self.gateway_url,
            "prefect": self.prefect.ui_url if self.prefect else None,
            "prefect_api": self.prefect.api_url if self.prefect else None,
            "metrics": self.metrics_url,
        }


@asynccontextmanager
async def running(
    config: Config, environ: Mapping[str, str] = os.environ
) -> AsyncIterator[Running]:
    """Modelium, from before the body to after it.

    Raises:
        ConfigError, InputError: a port is taken, the store cannot be opened …
    """
    clock = SystemClock()
    state = config.orchestration.state
    state.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        stack.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(GIL_INTERVAL_S)
        stack.enter_context(service_lock.sole(state))
        home, launcher = _prefect(config, clock, environ)
        store = Store.open(
            config.store_url(), now=clock.time, on_event=home.announce if home else ignore
        )
        stack.callback(store.close)
        planner_subprocess = PlannerSubprocess(clock=clock)
        stack.push_async_callback(planner_subprocess.aclose)
        rules = RulePlanner(offload=planner_subprocess)
        signals = Signals()
        services = _services(
            config,
            clock,
            store,
            launcher,
            signals=signals,
            brain=_brain(config, clock, store, environ, rules),
        )
        provide(services)
        if home:
            _metrics(services).show_prefect(lambda: home.connected)
            await stack.enter_async_context(home)
        stack.push_async_callback(launcher.aclose)
        await asyncio.gather(
            *(stack.enter_async_context(runtime) for runtime in services.runtimes.values())
        )
        operations = Operations(services=services)
        stack.push_async_callback(operations.aclose)
        metrics_url = await _exporter(config, services, stack)
        loop = Loop(services=services, signals=signals)
        stack.push_async_callback(loop.keep)
        await resume(services)
        gateway = Gateway(
            config=config.gateway,
            incoming=config.orchestration.incoming_directory,
            ingest=config.ingest,
            switchboard=services.switchboard,
            operations=operations,
            metrics=_metrics(services),
            clock=clock,
            links={"Prefect": home.ui_url} if home else {},
            important_teams=services.policy.high_priority_teams,
            on_answered=services.requests.add if config.orchestration.metrics.request_log else None,
        )
        await stack.enter_async_context(gateway)
        up = Running(
            services=services, prefect=home, gateway_url=gateway.url, metrics_url=metrics_url
        )
        stack.callback(addresses.write(state, up.endpoints()).unlink, missing_ok=True)
        await stack.enter_async_context(
            _background(services, loop, Demand(services=services, signals=signals))
        )
        # What was imported stays: looking through it for garbage would stop the gateway for a
        # tenth of a second, now and then.
        stack.callback(gc.unfreeze)
        gc.collect()
        gc.freeze()
        yield up


async def end(config: Config) -> list[str]:
    """End what an earlier `running` left behind on purpose: engines, servers, clusters.

    Returns the models that were loaded.

    Raises:
        InputError: Modelium is running.
        ModeliumError: something could not be ended.
    """
    clock, state, node = SystemClock(), config.orchestration.state, config.orchestration.node
    if not state.exists():
        return []  # nothing ever ran here
    with service_lock.sole(state), closing(Store.open(config.store_url(), now=clock.time)) as store:
        async with AsyncExitStack() as stack:
            runtimes = _runtimes(config, clock, _devices(config)).values()
            for runtime in runtimes:
                stack.push_async_exit(runtime)  # not entered: nothing is to be started
            return await teardown.end(
                store=AsyncStore(store),
                runtimes=runtimes,
                node=node,
                grace_s=config.gateway.drain_grace_seconds,
            )


def _prefect(
    config: Config, clock: Clock, environ: Mapping[str, str]
) -> tuple[PrefectHome | None, StageLauncher]:
    stages = counted(STAGES)
    if not config.prefect.enabled:
        return None, StageLauncher(runner=InlineRunner(stages=stages, services=current))
    home = PrefectHome(
        config=config, flows=FLOWS, stages=stages, services=current, clock=clock, environ=environ
    )
    return home, StageLauncher(runner=home.runner)


def _services(
    config: Config,
    clock: Clock,
    store: Store,
    launcher: Launcher,
    *,
    signals: Signals,
    brain: Brain,
) -> Services:
    devices = _devices(config)
    runtimes = _runtimes(config, clock, devices)
    policy = config.policy()
    metrics = Metrics()
    return Services(
        config=config,
        policy=policy,
        store=AsyncStore(store),
        repository=Depot(config=config.orchestration),
        switchboard=Switchboard(
            traffic=TrafficBook(clock=clock),
            listener=signals,
            metrics=metrics,
            max_waiting_per_model=config.gateway.max_waiting_per_model,
            max_waiting=config.gateway.max_waiting,
            max_wait_s=config.gateway.max_wait_seconds,
        ),
        devices=devices,
        runtimes=runtimes,
        observer=Observer(runtimes=runtimes, policy=policy),
        brain=brain,
        launcher=launcher,
        telemetry=metrics,
        clock=clock,
    )


def _brain(
    config: Config, clock: Clock, store: Store, environ: Mapping[str, str], rules: RulePlanner
) -> Brain:
    """The rules, with an LLM beside them where one is configured; its client is heavy to import."""
    wanted = config.brain
    if wanted.base_url is None or wanted.model is None:
        if wanted.base_url is not None:
            logger.warning("brain.base_url is set, brain.model is not: the rules decide alone")
        return rules
    from agents.brain import AdvisedBrain
    from agents.llm.agent import Agent, Budget
    from agents.llm.endpoint import Endpoint

    key = environ.get(wanted.api_key_env)
    here = config.brain_served_here
    if not key and here and config.gateway.token is not None:
        key = config.gateway.token.get_secret_value()
    return AdvisedBrain(
        rules=rules,
        agent=Agent(
            endpoint=Endpoint(base_url=wanted.base_url, model=wanted.model, api_key=key),
            clock=clock,
            budget=Budget(
                seconds=wanted.time_budget_seconds,
                rounds=wanted.max_steps,
                tokens=wanted.max_tokens,
            ),
        ),
        clock=clock,
        served_as=Names(aliases=config.gateway.aliases).resolve(wanted.model).model
        if here
        else None,
        history=lambda model, limit: store.decisions.newest(model=model, limit=limit),
    )


def _devices(config: Config) -> DeviceInventory:
    budget = config.orchestration.cpu_memory_gib
    return detect(config.orchestration.node, int(budget * GIB) if budget else None)


def _runtimes(config: Config, clock: Clock, devices: DeviceInventory) -> dict[RuntimeName, Runtime]:
    """The drivers of all enabled runtimes; client libraries are imported only where used."""
    state = config.orchestration.state
    # Engines that start side by side on one GPU mis-size each other's memory: they take turns.
    turns = DeviceTurns()
    found: dict[RuntimeName, Runtime] = {}
    if config.ray_serve.enabled:
        from runtimes.ray.driver import RayServe

        found[RuntimeName.RAY_SERVE] = RayServe(
            config=config.ray_serve, state_directory=state, clock=clock
        )
    if config.triton.enabled:
        from runtimes.triton.driver import Triton

        found[RuntimeName.TRITON] = Triton(
            config=config.triton, state_directory=state, clock=clock, devices=devices, turns=turns
        )
    if config.vllm.enabled:
        found[RuntimeName.VLLM] = vllm_driver(
            config=config.vllm, state_directory=state, clock=clock, devices=devices, turns=turns
        )
    if config.llama_cpp.enabled:
        found[RuntimeName.LLAMA_CPP] = llama_driver(
            config=config.llama_cpp,
            state_directory=state,
            clock=clock,
            devices=devices,
            turns=turns,
        )
    return found


def _metrics(services: Services) -> Metrics:
    if not isinstance(services.telemetry, Metrics):
        raise TypeError("the service reports to Prometheus metrics")
    return services.telemetry


async def _exporter(config: Config, services: Services, stack: AsyncExitStack) -> str | None:
    wanted = config.orchestration.metrics
    if not wanted.prometheus_enabled:
        return None
    exporter = _metrics(services).exporter(host=config.gateway.host, port=wanted.prometheus_port)
    await stack.enter_async_context(exporter)
    return f"{exporter.url}/metrics"


@asynccontextmanager
async def _background(services: Services, loop: Loop, demand: Demand) -> AsyncIterator[None]:
    """Run the control loop, the decisions on demand, and the watcher of the drop zone."""
    watch = Watch(
        folder=services.config.orchestration.incoming_directory,
        config=services.config.ingest,
        clock=services.clock,
        on_drop=lambda path: services.launcher.start(services.launcher.ingest(path=str(path))),
    )
    tasks = [
        asyncio.create_task(loop.run(), name="loop"),
        asyncio.create_task(demand.run(), name="demand"),
        asyncio.create_task(watch.run(), name="watch"),
    ]
    for task in tasks:
        task.add_done_callback(_on_end)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


def _on_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (failure := task.exception()):
        logger.critical("%s ended: %r", task.get_name(), failure)
