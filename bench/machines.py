"""Measures how Modelium grows with the machines that share a store: ``python -m bench.machines``.

Real PostgreSQL, and 16, 64 and 256 nodes of 8 GPUs with up to 4,000 models in one process: each
node has its own store, services and loops, and engines in memory whose loads take a second. Four
fifths of the models are loaded; requests for others arrive at random nodes, two a second. Then the
node that plans loses the database. All nodes share this machine's cores, so that waits are longer
than on machines of their own. The same run measures full re-plans beside an event loop.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agents.replay.result import percentile
from bench.goals import Goal, print_goals
from bench.replans import Replan, replans
from bench.simulation import Simulation
from tests.postgresql import server

SIZES = ((16, 250), (64, 1000), (256, 4000))
"""Nodes and models."""

REQUESTS, GAP_S = 60, 0.5
"""Requests for models that are not loaded, and the time between two."""

REST_S = 20.0
"""For which the nodes are watched while nothing is asked: two ticks."""

TICKS = 5

GOAL_NODES, GOAL_COMMAND_S, GOAL_FAILOVER_S, GOAL_REPLAN_S = 64, 1.0, 15.0, 2.0


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured at one size. Rates are for all nodes together unless they say otherwise."""

    nodes: int
    models: int
    tick_cpu_ms: float
    """Of one tick of the node that plans, all threads, median."""
    other_tick_cpu_ms: float
    """Of one tick of another node."""
    rest_transactions_per_s: float
    """While nothing is asked."""
    rest_cpu_ms_per_s: float
    """Of one node's service while nothing is asked."""
    rest_database_cpu_ms_per_s: float
    busy_transactions_per_s: float
    """With requests."""
    busy_database_cpu_ms_per_s: float
    command_p50_s: float
    """From a request at any node to the load command on the node with the device."""
    command_p95_s: float
    open_p95_s: float
    """From the request to the open model at the same node, less the second of the load."""
    unanswered: int
    failover_s: float
    """From the last renewal that succeeded to the next planner."""
    failover_command_s: float
    """From a request right after that to its load command."""
    connections: int
    load: float
    """Of this machine, a minute's mean at the end: above its cores, waits are its, not Modelium's."""


async def measure(nodes: int, models: int, *, requests: int) -> tuple[Figures, list[str]]:
    """Return the figures at one size, and the invariants that do not hold."""
    connections = 100 + 8 * nodes
    with (
        server(f"max_connections={connections}", "shared_buffers=256MB") as database,
        tempfile.TemporaryDirectory() as folder,
    ):
        simulation = Simulation(
            database, folder=Path(folder), nodes=nodes, models=models, load_s=1.0
        )
        await simulation.start()
        _log(f"{nodes} nodes are up")
        rest = await simulation.watched(asyncio.sleep(REST_S))
        _log("rested")
        asked = _Requests(simulation, requests)
        busy = await simulation.watched(asked.send())
        _log("asked")
        commands = asked.commands()
        failover, after = await _failover(simulation)
        _log("failed over")
        open_connections = simulation.connections()
        await simulation.pause()
        tick = await simulation.tick_cpu_ms(simulation.planner(), TICKS)
        other = await simulation.tick_cpu_ms(simulation.standby(), TICKS)
        violations = simulation.violations()
        await simulation.aclose()
    opened = sorted(asked.opened)
    return Figures(
        nodes=nodes,
        models=models,
        tick_cpu_ms=statistics.median(tick),
        other_tick_cpu_ms=statistics.median(other),
        rest_transactions_per_s=rest.transactions_per_s,
        rest_cpu_ms_per_s=rest.cpu_ms_per_s / nodes,
        rest_database_cpu_ms_per_s=rest.database_cpu_ms_per_s,
        busy_transactions_per_s=busy.transactions_per_s,
        busy_database_cpu_ms_per_s=busy.database_cpu_ms_per_s,
        command_p50_s=percentile(commands, 0.5),
        command_p95_s=percentile(commands, 0.95),
        open_p95_s=percentile(opened, 0.95) - 1.0 if opened else float("inf"),
        unanswered=len(asked.errors),
        failover_s=failover,
        failover_command_s=after,
        connections=open_connections,
        load=os.getloadavg()[0],
    ), violations


class _Requests:
    """Requests for models that are not loaded, each at a node chosen at random."""

    def __init__(self, simulation: Simulation, count: int) -> None:
        rng = random.Random(7)
        self._simulation = simulation
        self._targets = [
            (rng.choice(simulation.nodes), model)
            for model in rng.sample(simulation.absent, min(count, len(simulation.absent) - 1))
        ]
        self._sent: dict[str, float] = {}
        self.opened: list[float] = []
        self.errors: list[str] = []

    async def send(self) -> None:
        """Send them, and wait for their answers."""
        async with asyncio.TaskGroup() as group:
            for node, model in self._targets:
                group.create_task(self._one(node, model))
                await asyncio.sleep(GAP_S)

    def commands(self) -> list[float]:
        """Return the seconds to each load command, in order."""
        begun = self._simulation.begun()
        return sorted(begun[m] - at for m, at in self._sent.items() if m in begun)

    async def _one(self, node: Any, model: str) -> None:
        self._sent[model] = began = time.monotonic()
        try:
            async with node.services.switchboard.admit(model):
                self.opened.append(time.monotonic() - began)
        except Exception as exc:
            self.errors.append(f"{model} at {node.name}: {exc}")
            _log(self.errors[-1])


async def _failover(simulation: Simulation) -> tuple[float, float]:
    """Take the database from the node that plans; return seconds to the next, and to its load."""
    planner = simulation.planner()
    asker = next(node for node in simulation.nodes if node is not planner)
    model = next(name for name in simulation.absent if name not in simulation.begun())
    began = await simulation.renewal(planner)
    planner.lose_store()
    asking = asyncio.create_task(_asked(asker, model))
    while simulation.planner(besides=planner) is None:  # noqa: ASYNC110 - what users wait for
        await asyncio.sleep(0.01)
    took = time.monotonic() - began
    await asyncio.wait({asking})
    return took, simulation.begun().get(model, float("inf")) - began


async def _asked(node: Any, model: str) -> None:
    try:
        async with node.services.switchboard.admit(model):
            return
    except Exception as exc:
        _log(f"{model} at {node.name}: {exc}")


def table(rows: Sequence[Figures]) -> str:
    """Return the figures of all sizes side by side, and how much each grows."""
    first = rows[0]
    lines = [" | ".join(["", *(f"{row.nodes} × 8, {row.models}" for row in rows), "growth"])]
    last = asdict(rows[-1])
    for name, value in asdict(first).items():
        cells = [f"{asdict(row)[name]:.4g}" for row in rows]
        growth = f"{last[name] / value:.1f}×" if value else ""
        lines.append(" | ".join([name, *cells, growth]))
    return "\n".join(lines)


def goals(rows: Sequence[Figures], planned: Sequence[Replan], broken: int) -> list[Goal]:
    """Return what docs/benchmarks.md requires of what was measured."""
    found = [Goal(name="invariants-broken", measured=broken, relation="≤", required=0)]
    for row in rows:
        waits = f"command-p95-{row.nodes}-nodes"
        if row.nodes <= GOAL_NODES:
            found.append(_seconds(waits, row.command_p95_s, GOAL_COMMAND_S))
        found.append(_seconds(f"failover-{row.nodes}-nodes", row.failover_s, GOAL_FAILOVER_S))
    for plan in planned:
        name = f"replan-{plan.name}-{plan.models}x{plan.devices}"
        found.append(_seconds(name, plan.own_cpu_s + plan.cpu_s, GOAL_REPLAN_S))
    return found


def _seconds(name: str, measured: float, required: float) -> Goal:
    return Goal(name=name, measured=measured, relation="≤", required=required, unit="s")


def _log(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def main() -> None:
    """Run the sizes that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="*", default=[n for n, _ in SIZES])
    parser.add_argument("--models", type=int, help="default: what the sizes of the goals have")
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--replan-nodes", type=int, default=256, help="0: none")
    given = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)  # the failover is an error
    rows, broken = [], 0
    for nodes in given.nodes:
        models = given.models or dict(SIZES).get(nodes, nodes * 16)
        figures, violations = asyncio.run(measure(nodes, models, requests=given.requests))
        rows.append(figures)
        broken += len(violations)
        print("\n".join(violations), file=sys.stderr)
    planned = []
    if given.replan_nodes:
        models = given.models or dict(SIZES).get(given.replan_nodes, given.replan_nodes * 16)
        planned = asyncio.run(replans(nodes=given.replan_nodes, models=models))
    json.dump([asdict(one) for one in (*rows, *planned)], sys.stdout, indent=2)
    print()
    if rows:
        print(table(rows))
    print_goals(*goals(rows, planned, broken))


if __name__ == "__main__":
    main()
