"""The composition root: builds everything, and starts and stops it in the order below.

Start: store → exporter and gateway, which holds requests from now on → runtimes, the LLM's client
and Prefect (in the background) → what an earlier run left → control loop and drop zone. Stop: the
reverse, Prefect last. Loaded models and their servers keep running, so that a restart interrupts
nothing; `end` stops them.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from agents.rules.planner import RulePlanner
from agents.rules.subprocess import PlannerSubprocess
from modelium.app.assembly import assembled, flow_home
from modelium.app.background import background
from modelium.app.brain import build_brain
from modelium.app.drivers import build_drivers, connected
from modelium.app.late import LateBrain, LatePrefect
from modelium.app.node import NodeIdentity, file_sources, joined
from modelium.clock import SteadyClock, SystemClock
from modelium.config import Config
from modelium.config.folders import close_to_others, folders, make
from modelium.config.hosts import is_loopback
from modelium.control import addresses, service_lock, teardown
from modelium.control.demand import Demand
from modelium.control.loop import Loop
from modelium.control.operations import Operations
from modelium.control.recovery import recover, take_up
from modelium.control.reload import ConfigSource, Reloader
from modelium.control.signals import Signals
from modelium.devices import find_devices
from modelium.gateway import Gateway
from modelium.metrics import Metrics
from modelium.models import Event
from modelium.ports import Brain
from modelium.routing.switchboard import Switchboard
from modelium.stages.services import Services, provide
from modelium.stages.sweeps import Sweeps
from modelium.store import AsyncStore, Store
from modelium.store.store import ignore
from modelium.traffic.answered import counting

if TYPE_CHECKING:
    from flows.runner.service import PrefectService

logger = logging.getLogger(__name__)

GIL_INTERVAL_S = 0.0001
"""How long another thread may hold the GIL while the gateway's event loop waits for it. Python's
default of 5 ms would be added to each request, several times, while a thread works."""


CLOCK_OFF_S = 2.0
"""A machine's clock that is further off is told."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A running service."""

    services: Services
    prefect: PrefectService | None
    gateway_url: str
    metrics_url: str | None

    def endpoints(self) -> dict[str, str | None]:
        """Return the addresses for people and the CLI."""
        return {
            "gateway": self.gateway_url,
            "prefect": self.prefect.ui_url if self.prefect else None,
            "prefect_api": self.prefect.api_url if self.prefect else None,
            "metrics": self.metrics_url,
        }


@asynccontextmanager
async def running(
    config: Config,
    environ: Mapping[str, str] = os.environ,
    source: ConfigSource | None = None,
    on_event: Callable[[Event], None] = ignore,
    on_imports: Callable[[], None] = lambda: None,
) -> AsyncIterator[Running]:
    """Run the service while the body runs.

    Args:
        config: the configuration at the start.
        environ: environment variables, for credentials and Prefect's settings.
        on_event: called with each event, on the thread that stored it; must return at once.
        on_imports: called when libraries were imported that configure logging.
        source: where ``config`` comes from, to read it again when it changes.

    Raises:
        ConfigError, InputError: a port is taken, the store cannot be opened …
    """
    clock, steady = SystemClock(), SteadyClock()
    state = config.orchestration.state
    make("orchestration.state_directory", state)
    close_to_others(config)
    async with AsyncExitStack() as stack:
        stack.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(GIL_INTERVAL_S)
        stack.enter_context(service_lock.hold(state))
        for field, folder in folders(config).items():
            make(field, folder)
            if field in service_lock.MANAGED and not config.shares_files():
                stack.enter_context(service_lock.claim(folder, field=field))
        sweeps = Sweeps(scheduled=config.prefect.enabled, now=clock.monotonic())
        home, launcher = flow_home(config, clock, environ, sweeps)
        store = Store.open(
            config.store_url(),
            now=steady.time,
            on_event=partial(_tell, home.announce if home else ignore, on_event),
        )
        stack.callback(store.close)
        node = NodeIdentity.of(config, shared=store.shared)
        stack.enter_context(store.exclusive(node.name, heir_of=node.holder))
        store.act_as(node.name)
        if store.shared:
            _follow(steady, store)
        planner_subprocess = PlannerSubprocess(clock=clock)
        stack.push_async_callback(planner_subprocess.aclose)
        brain = build_brain(config, clock, store, environ, RulePlanner(offload=planner_subprocess))
        signals, metrics = Signals(), Metrics()
        metrics.node = node.name
        services = assembled(
            config,
            steady,
            store,
            launcher,
            file=source.file if source else None,
            signals=signals,
            metrics=metrics,
            brain=brain,
            sweeps=sweeps,
            node=node,
            files=await stack.enter_async_context(file_sources(config, node)),
        )
        provide(services)
        member = await stack.enter_async_context(joined(services, node)) if node.name else None
        if home:
            metrics.show_prefect(lambda: home.connected)
            await stack.enter_async_context(home)
        stack.push_async_callback(launcher.aclose)
        reloader = Reloader(services=services, signals=signals, source=source or ConfigSource())
        operations = Operations(services=services, reloader=reloader)
        stack.push_async_callback(operations.aclose)
        metrics_url = await _export(config, metrics, stack)
        loop = Loop(services=services, signals=signals)
        stack.push_async_callback(loop.persist)
        left = await take_up(services)
        links: dict[str, str] = {}
        ready = asyncio.Event()
        gateway = Gateway(
            config=config.gateway,
            incoming=config.orchestration.incoming_directory,
            ingest=config.ingest,
            switchboard=services.switchboard,
            operations=operations,
            metrics=metrics,
            clock=clock,
            links=links,
            important_teams=services.policy.high_priority_teams,
            max_tokens=config.max_tokens(),
            on_answered=counting(
                services.switchboard.traffic,
                services.requests if config.orchestration.metrics.request_log else None,
            ),
            on_forwarded=services.requests.add
            if config.orchestration.metrics.request_log
            else None,
            is_ready=ready.is_set,
            folder=state,
            identities=services.store.nodes.identities if services.store.shared else None,
            pools=partial(services.store.key_pools.settle, gateway=services.node)
            if services.store.shared
            else None,
        )
        await stack.enter_async_context(gateway)
        late = asyncio.create_task(_start_late(brain, home, on_imports), name="late")
        stack.push_async_callback(_cancelled, late)
        await stack.enter_async_context(connected(services.runtimes.values()))
        await recover(services, left)
        ready.set()
        if member:
            await member.settle()
        reloader.listen(gateway.apply)
        reloader.listen(partial(_limit, services.switchboard))
        await stack.enter_async_context(
            background(services, loop, Demand(services=services, signals=signals), reloader, member)
        )
        prefect = await late
        if prefect:
            links["Prefect"] = prefect.ui_url
        up = Running(
            services=services, prefect=prefect, gateway_url=gateway.url, metrics_url=metrics_url
        )
        stack.callback(addresses.write(state, up.endpoints()).unlink, missing_ok=True)
        # Imported objects never become garbage: scanning them would stop the gateway for 0.1 s
        # at each full collection.
        stack.callback(gc.unfreeze)
        gc.collect()
        gc.freeze()
        yield up


def _follow(clock: SteadyClock, store: Store) -> None:
    """Have ``clock`` show the time of the database, which all nodes share."""
    ahead = clock.follow(store.time())
    if abs(ahead) > CLOCK_OFF_S:
        logger.warning(
            "this machine's clock is %.0f s %s that of the database, which Modelium goes by; "
            "set it, e.g. with chrony",
            abs(ahead),
            "ahead of" if ahead > 0 else "behind",
        )


def _tell(first: Callable[[Event], None], second: Callable[[Event], None], event: Event) -> None:
    first(event)
    second(event)


def _limit(switchboard: Switchboard, config: Config) -> None:
    switchboard.limit(
        max_waiting_per_model=config.gateway.max_waiting_per_model,
        max_waiting=config.gateway.max_waiting,
        max_wait_s=config.gateway.max_wait_seconds,
    )


async def end(config: Config) -> list[str]:
    """Stop what an earlier `running` left on purpose: engines, servers, clusters.

    Returns the models that were loaded.

    Raises:
        InputError: Modelium is running.
        ModeliumError: something could not be stopped.
    """
    clock, state, name = SystemClock(), config.orchestration.state, config.orchestration.node
    if not state.exists():
        return []  # the service never ran here
    with (
        service_lock.hold(state),
        closing(Store.open(config.store_url(), now=clock.time)) as store,
        ExitStack() as held,
    ):
        node = NodeIdentity.of(config, shared=store.shared)
        held.enter_context(store.exclusive(node.name, heir_of=node.holder))
        async with AsyncExitStack() as stack:
            runtimes = build_drivers(config, clock, find_devices(config)).values()
            for runtime in runtimes:
                stack.push_async_exit(runtime)  # not entered: nothing is started
            return await teardown.end(
                store=AsyncStore(store),
                runtimes=runtimes,
                node=name,
                grace_s=config.gateway.drain_grace_seconds,
            )


async def _start_late(
    brain: Brain, home: LatePrefect | None, on_imports: Callable[[], None]
) -> PrefectService | None:
    """Import and start what the gateway did not wait for.

    One after the other: of libraries that two threads import at once, one may see the half of one.
    """
    if isinstance(brain, LateBrain):
        await brain.ready()
    if home is None:
        return None
    await home.imported()
    on_imports()
    return await home.start()


async def _cancelled(task: asyncio.Task[PrefectService | None]) -> None:
    task.cancel()
    await asyncio.wait({task})


async def _export(config: Config, metrics: Metrics, stack: AsyncExitStack) -> str | None:
    """Start the exporter where it is wanted; return its address."""
    wanted = config.orchestration.metrics
    if not wanted.prometheus_enabled:
        return None
    host, token = config.gateway.host, config.gateway.token
    exporter = metrics.exporter(
        host=host,
        port=wanted.prometheus_port,
        token=token.get_secret_value() if token and not is_loopback(host) else None,
    )
    await stack.enter_async_context(exporter)
    return f"{exporter.url}/metrics"
