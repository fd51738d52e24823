"""Builds what the service consists of; starts none of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from modelium.app.drivers import build_drivers
from modelium.app.late import LatePrefect
from modelium.app.node import NodeIdentity
from modelium.config import Config
from modelium.control.signals import Signals
from modelium.devices import find_devices
from modelium.intake.repository import ModelRepository
from modelium.metrics import Metrics
from modelium.ports import Brain, Clock, FileSources, Launcher
from modelium.routing.switchboard import Switchboard
from modelium.stages.inline import InlineRunner
from modelium.stages.instrumented import instrumented
from modelium.stages.launcher import StageLauncher
from modelium.stages.runtime_monitor import RuntimeMonitor
from modelium.stages.services import Services, current
from modelium.stages.sweeps import Sweeps
from modelium.stages.table import STAGES
from modelium.store import AsyncStore, Store
from modelium.traffic import TrafficBook

if TYPE_CHECKING:
    from flows.runner.service import PrefectService


def assembled(
    config: Config,
    clock: Clock,
    store: Store,
    launcher: Launcher,
    *,
    file: Path | None,
    signals: Signals,
    metrics: Metrics,
    brain: Brain,
    sweeps: Sweeps,
    node: NodeIdentity,
    files: FileSources | None = None,
) -> Services:
    """Return what stages are given.

    ``file``: the configuration's, which engines may not read.

    Raises:
        Unavailable: see `find_devices`.
    """
    devices = find_devices(config)
    runtimes = build_drivers(config, clock, devices, file)
    policy = config.policy()
    return Services(
        config=config,
        policy=policy,
        store=AsyncStore(store),
        repository=ModelRepository(
            config=config.orchestration, teams=config.teams, shared=config.shares_files()
        ),
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
        runtime_monitor=RuntimeMonitor(runtimes=runtimes, policy=policy),
        brain=brain,
        launcher=launcher,
        telemetry=metrics,
        clock=clock,
        sweeps=sweeps,
        node=node.name,
        peers=node.peers(),
        files=files,
        began=clock.time(),
    )


def flow_home(
    config: Config, clock: Clock, environ: Mapping[str, str], sweeps: Sweeps
) -> tuple[LatePrefect | None, StageLauncher]:
    """Return who records stages in Prefect, if anybody, and who launches them."""
    stages = instrumented(STAGES)
    inline = InlineRunner(stages=stages, services=current)
    if not config.prefect.enabled:
        return None, StageLauncher(runner=inline)

    def build() -> PrefectService:
        from flows.runner.peers import Peers
        from flows.runner.service import PrefectService
        from flows.table import FLOWS

        return PrefectService(
            config=config,
            flows=FLOWS,
            stages=stages,
            services=current,
            clock=clock,
            environ=environ,
            follow=sweeps.follow,
            peers=Peers.of(current()),
        )

    home = LatePrefect(build=build, unrecorded=inline)
    return home, StageLauncher(runner=home)
