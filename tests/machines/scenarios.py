"""What happens to the machines, as data: each scenario is one function and its name."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.machines.fleet import Fleet
from tests.machines.node import Machine

TAKEN_OVER_S = 15.0
"""Within this another machine plans, where the machine is not busy: a goal of `make machines`."""

SILENT_S = 25.0
"""Longer than the time after which a machine is silent, and its models are loaded elsewhere."""

Figures = dict[str, float]
Run = Callable[[Fleet, random.Random], Figures]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Something that happens while clients ask every gateway."""

    name: str
    run: Run
    """Makes it happen, and undoes it; returns what it measured, in seconds."""
    small: bool = False
    """Whether ``--small`` has it."""


# --- what users do ------------------------------------------------------------------------------


def drops(fleet: Fleet, rng: random.Random) -> Figures:
    """Drop a model on each machine at once; every gateway answers for all."""
    began = time.monotonic()
    machines = list(fleet.machines.values())
    models = [fleet.drop(machine) for machine in machines]
    if fleet.triton:
        models += [fleet.drop(machine, onnx=True) for machine in rng.sample(machines, 2)]
    fleet.served(*models)
    return {"all_ready_s": time.monotonic() - began}


def demand(fleet: Fleet, rng: random.Random) -> Figures:
    """Unload all models; requests at every gateway bring each back, once."""
    models = [model.name for model in fleet.clients.models]
    for name in models:
        machine = rng.choice(list(fleet.machines))
        status, _ = fleet.clients.send("POST", machine, f"/api/v1/models/{name}/unload")
        assert status in (200, 202), f"to unload {name} was answered with {status}"
    began = time.monotonic()
    fleet.until(
        lambda: all(fleet.state(name) == "ready" for name in models),
        what="all models are back",
        within_s=180.0,
    )
    return {"all_back_s": time.monotonic() - began}


def drain(fleet: Fleet, rng: random.Random) -> Figures:
    """Drain a machine: its models move, and are asked all the time."""
    machine = fleet.other(rng)
    began = time.monotonic()
    planner = fleet.planner()
    planner.cli("nodes", "drain", machine.name)
    fleet.until(lambda: not fleet.on(machine), what=f"{machine.name} is empty", within_s=240.0)
    took = time.monotonic() - began
    planner.cli("nodes", "uncordon", machine.name)
    return {"drained_s": took}


def rolling_restart(fleet: Fleet, rng: random.Random) -> Figures:
    """Restart one service after another; models go on."""
    began = time.monotonic()
    for machine in fleet.machines.values():
        with fleet.clients.without(machine.name):
            machine.stop()
            machine.start()
            fleet.up(machine)
    return {"restarted_s": time.monotonic() - began}


# --- what happens to machines -------------------------------------------------------------------


def kill_node(fleet: Fleet, rng: random.Random) -> Figures:
    """Kill the service of a machine that does not plan, for longer than it takes to be silent."""
    with _killed(fleet, fleet.other(rng)):
        time.sleep(SILENT_S)
    return {}


def kill_node_briefly(fleet: Fleet, rng: random.Random) -> Figures:
    """Kill the service of a machine, and start it again at once: its engines are adopted."""
    with _killed(fleet, fleet.other(rng)):
        pass
    return {}


def kill_planner(fleet: Fleet, rng: random.Random) -> Figures:
    """Kill the service of the machine that plans; another one does until it is back."""
    planner = fleet.planner()
    with _killed(fleet, planner):
        took = _taken_over(fleet, planner)
    return {"failover_s": took}


def partition(fleet: Fleet, rng: random.Random) -> Figures:
    """Pull the cable of a machine that does not plan."""
    with _cut(fleet, fleet.other(rng)):
        time.sleep(SILENT_S)
    return {}


def partition_briefly(fleet: Fleet, rng: random.Random) -> Figures:
    """Pull the cable of a machine for less than it takes to be silent."""
    with _cut(fleet, fleet.other(rng)):
        time.sleep(6.0)
    return {}


def partition_planner(fleet: Fleet, rng: random.Random) -> Figures:
    """Pull the cable of the machine that plans."""
    planner = fleet.planner()
    with _cut(fleet, planner):
        took = _taken_over(fleet, planner)
        time.sleep(max(0.0, SILENT_S - took))
    return {"failover_s": took}


def pause_planner(fleet: Fleet, rng: random.Random) -> Figures:
    """Stop the process that plans; when it wakes, another one does."""
    planner = fleet.planner()
    with fleet.clients.without(planner.name, models=fleet.on(planner)):
        planner.pause()
        try:
            took = _taken_over(fleet, planner)
            time.sleep(max(0.0, SILENT_S - took))
        finally:
            planner.go_on()
        fleet.up(planner)
    return {"failover_s": took}


def slow_link(fleet: Fleet, rng: random.Random) -> Figures:
    """Let the cable of a machine carry half a megabit a second while a model is dropped there."""
    machine = fleet.other(rng)
    with fleet.network.slow(machine.name, kbit_s=512):
        fleet.served(fleet.drop(machine))
        time.sleep(5.0)
    return {}


def reborn(fleet: Fleet, rng: random.Random) -> Figures:
    """Kill everything on a machine, empty its state, and have it join again under its name.

    Its repository stays: no other machine need have the files of its models.
    """
    machine = fleet.other(rng)
    with fleet.clients.without(machine.name, models=fleet.on(machine)):
        machine.kill()
        for process in fleet.network.processes(machine.name):
            process.kill()
        time.sleep(SILENT_S)
        for folder in (machine.state, machine.incoming):
            shutil.rmtree(folder)
        machine.start(join_token=fleet.join_token(fleet.planner()))
        fleet.up(machine)
    return {}


@contextmanager
def _killed(fleet: Fleet, machine: Machine) -> Iterator[None]:
    with fleet.clients.without(machine.name, models=fleet.on(machine)):
        machine.kill()
        yield
        machine.start()
        fleet.up(machine)


@contextmanager
def _cut(fleet: Fleet, machine: Machine) -> Iterator[None]:
    with fleet.clients.without(machine.name, models=fleet.on(machine)):
        fleet.network.cut(machine.name)
        try:
            yield
        finally:
            fleet.network.heal(machine.name)
        fleet.up(machine)


def _taken_over(fleet: Fleet, before: Machine) -> float:
    """Wait until another machine plans; return the seconds that it took."""
    began = time.monotonic()
    lease = fleet.observer.tables().planner
    epoch = lease[1] if lease else 0

    def changed() -> bool:
        now = fleet.observer.tables().planner
        return now is not None and now[1] > epoch

    fleet.until(changed, what=f"another machine than {before.name} plans", within_s=60.0)
    return time.monotonic() - began


SCENARIOS = (
    Scenario(name="drops", run=drops, small=True),
    Scenario(name="demand", run=demand),
    Scenario(name="kill-node-briefly", run=kill_node_briefly),
    Scenario(name="kill-node", run=kill_node),
    Scenario(name="kill-planner", run=kill_planner, small=True),
    Scenario(name="partition-briefly", run=partition_briefly),
    Scenario(name="partition", run=partition),
    Scenario(name="partition-planner", run=partition_planner),
    Scenario(name="pause-planner", run=pause_planner),
    Scenario(name="slow-link", run=slow_link),
    Scenario(name="drain", run=drain),
    Scenario(name="rolling-restart", run=rolling_restart),
    Scenario(name="reborn", run=reborn),
)
"""In the order in which they happen to one fleet: each has to leave it whole."""
