"""Replays real request patterns under the planner and other policies: ``python -m bench.replay``.

Each cell is a trace and a capacity (10, 25, 50% of all footprints). For each policy it prints cold
starts and load-seconds relative to LRU (geometric means over the cells), load-seconds relative to
the offline bound, and the worst cell. ``--slo`` adds the request rate at which 99% of the requests
wait at most 30 s, relative to LRU. ``--prewarm`` adds the planner with prewarming, whose loads
count. Seeds are fixed, so two runs give the same figures. The last lines are the goals.

The request patterns of real clients (`bench.workloads`) are read from ``--servegen``, by default
from ``../shared/data/traces`` beside the checkout; without them, only the synthetic trace is run.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from agents.replay.planner_under_replay import replay_policies
from agents.replay.result import ReplayResult
from agents.replay.simulation import replay
from agents.replay.traces import Trace
from bench.goals import Goal, print_goals
from bench.workloads import bursty, cell, faster, servegen
from modelium.models import GIB

CAPACITIES = (0.10, 0.25, 0.50)
POLICIES = ("rules", "gdsf", "lru", "ttl", "lfu", "ollama", "llama-swap", "belady")
SERVEGEN = Path(__file__).parents[2] / "shared/data/traces/servegen_first_week.csv.xz"
GROUPS = ("m-large", "m-mid", "m-small", "mm-image", "deepseek-r1")
DEVICE_GIB = 160
TARGET, SLO_S = 0.99, 30.0
Row = dict[str, ReplayResult]


def traces(data: Path | None, requests: int, seed: int) -> Iterator[tuple[str, Trace]]:
    """Yield name and trace of each cell; without ``data``, only the synthetic one."""
    yield "bursty", bursty(seed=seed)
    if data is None:
        return
    clients = servegen(data)
    for spread in (1.0, 0.5):
        for group in GROUPS:
            name = f"{group}^{spread:g}"
            yield (
                name,
                cell(clients, {group}, requests=requests, days=1, spread=spread, seed=seed),
            )
        every = cell(clients, set(GROUPS), requests=requests, days=1, spread=spread, seed=seed)
        yield f"all^{spread:g}", every


def capacity(trace: Trace, share: float) -> int:
    """Return ``share`` of the bytes of all footprints."""
    return int(sum(m.bytes for m in trace.models) * share)


def mean_ratio(rows: list[Row], policy: str, field: str, against: str = "lru") -> float:
    """Return the geometric mean over the cells of ``policy`` relative to ``against``."""
    logs = [
        math.log(max(1e-9, getattr(r[policy], field)) / max(1e-9, getattr(r[against], field)))
        for r in rows
    ]
    return math.exp(sum(logs) / len(logs))


def worst_ratio(rows: list[Row], policy: str) -> float:
    """Return the worst ratio of ``policy`` to LRU in a cell, of cold starts or load-seconds."""
    return max(
        getattr(r[policy], field) / max(1e-9, getattr(r["lru"], field))
        for r in rows
        for field in ("cold_starts", "load_seconds")
    )


def rate_at_slo(trace: Trace, share: float, policy: str) -> float:
    """Return how many times faster ``trace`` can run until 1% of the requests wait over 30 s.

    Returns 0 if no rate is low enough: over 1% are cold starts of models that load for longer.
    """
    count = max(1, round(capacity(trace, share) / (DEVICE_GIB * GIB)))
    devices = (DEVICE_GIB * GIB,) * count

    def holds(factor: float) -> bool:
        (result,) = replay(
            faster(trace, factor), devices, [policy], slo_s=SLO_S, known=replay_policies()
        )
        return (result.slo_attainment or 0.0) >= TARGET

    low, high = 1 / 64, 64.0
    if not holds(low):
        return 0.0
    for _ in range(8):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def main() -> None:
    """Run, print, and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--servegen",
        type=Path,
        default=SERVEGEN if SERVEGEN.exists() else None,
        help="servegen_first_week.csv.xz (default: the file beside the checkout, if present)",
    )
    parser.add_argument("--requests", type=int, default=15_000, help="per trace")
    parser.add_argument("--prewarm", action="store_true", help="add the rules with prewarming")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--slo", action="store_true", help="add the rate at 99%% within 30 s")
    parser.add_argument("--plot", type=Path, help="write a plot to this path, as .png and .svg")
    parser.add_argument("--json", type=Path, help="write all results to this file")
    given = parser.parse_args()
    policies = (*POLICIES, "rules+prewarm") if given.prewarm else POLICIES
    if given.servegen is None:
        print("no ServeGen data: replaying the synthetic trace only, without goals (--servegen)")
    rows: dict[str, Row] = {}
    rates: dict[str, dict[str, float]] = {}
    for name, trace in traces(given.servegen, given.requests, given.seed):
        for share in CAPACITIES:
            pool = (capacity(trace, share),)
            results = replay(trace, pool, policies, cache_only=True, known=replay_policies())
            row = rows[f"{name} {share:.0%}"] = {r.policy: r for r in results}
            _show(f"{name} {share:.0%}", row)
        if given.slo:
            rates[name] = {p: rate_at_slo(trace, 0.5, p) for p in ("lru", "gdsf", "rules")}
            print(f"{name}: rate at SLO {rates[name]}", flush=True)
    _summary(list(rows.values()), rates)
    if given.plot:
        _plot(rows, given.plot)
    if given.json:
        cells = {k: {p: asdict(r) for p, r in row.items()} for k, row in rows.items()}
        given.json.write_text(json.dumps({"cells": cells, "rate_at_slo": rates}, indent=1))
    if given.servegen:  # the goals are stated for these patterns
        _goals(list(rows.values()), rates)


def _show(name: str, row: Row) -> None:
    lru = row["lru"]
    shown = "  ".join(
        f"{p} {row[p].cold_starts / max(1, lru.cold_starts):.2f}/"
        f"{row[p].load_seconds / max(1e-9, lru.load_seconds):.2f}"
        for p in row
        if p != "lru"
    )
    print(f"{name:18} lru {lru.cold_starts}/{lru.load_seconds:.0f}s  {shown}", flush=True)


def _plot(rows: dict[str, Row], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for axis, field, title in zip(
        figure.subplots(1, 2, sharey=True),
        ("cold_starts", "load_seconds"),
        ("cold starts", "load-seconds"),
        strict=True,
    ):
        for policy, colour in (("gdsf", "tab:orange"), ("rules", "tab:blue"), ("belady", "0.6")):
            ratios = sorted(
                getattr(row[policy], field) / max(1e-9, getattr(row["lru"], field))
                for row in rows.values()
            )
            axis.plot(ratios, range(1, len(ratios) + 1), label=policy, color=colour, marker=".")
        axis.axvline(1, color="k", linewidth=0.8, linestyle="--")
        axis.set(xlabel=f"{title} relative to LRU", title=f"{title} by cell, best first")
    figure.axes[0].set_ylabel("cells")
    figure.axes[0].legend(labels=("GDSF (FaasCache)", "Modelium's rules", "offline bound", "LRU"))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=120)
    figure.savefig(path.with_suffix(".svg"))


def _summary(rows: list[Row], rates: dict[str, dict[str, float]]) -> None:
    out = sys.stdout
    out.write(f"\n{len(rows)} cells, relative to LRU (geometric mean)\n")
    out.write(f"{'policy':14}{'cold':>8}{'load s':>8}{'/belady':>9}{'worst':>8}\n")
    for policy in rows[0]:
        out.write(
            f"{policy:14}{mean_ratio(rows, policy, 'cold_starts'):8.3f}"
            f"{mean_ratio(rows, policy, 'load_seconds'):8.3f}"
            f"{mean_ratio(rows, policy, 'load_seconds', 'belady'):9.2f}"
            f"{worst_ratio(rows, policy):8.2f}\n"
        )
    for policy in ("gdsf", "rules"):
        rate = _mean_rate(rates, policy)
        if rate is not None:
            out.write(f"rate at SLO, {policy}: {rate:.2f} × LRU\n")


def _mean_rate(rates: dict[str, dict[str, float]], policy: str) -> float | None:
    """Return the geometric mean of the rate relative to LRU, over traces where all meet the SLO."""
    logs = [math.log(r[policy] / r["lru"]) for r in rates.values() if min(r.values()) > 0]
    return math.exp(sum(logs) / len(logs)) if logs else None


def _goals(rows: list[Row], rates: dict[str, dict[str, float]]) -> None:
    """Print the goals of the rules, with and without prewarming."""
    for policy in (name for name in ("rules", "rules+prewarm") if name in rows[0]):
        cold, load = (mean_ratio(rows, policy, f) for f in ("cold_starts", "load_seconds"))
        bound = mean_ratio(rows, policy, "load_seconds", "belady")
        print_goals(
            Goal(name=f"{policy}-cold-starts/lru", measured=cold, relation="≤", required=0.75),
            Goal(name=f"{policy}-load-seconds/lru", measured=load, relation="≤", required=0.82),
            Goal(name=f"{policy}-load-seconds/bound", measured=bound, relation="≤", required=1.35),
        )
    rate = _mean_rate(rates, "rules")
    if rate is not None:
        print_goals(Goal(name="rules-rate/lru", measured=rate, relation="≥", required=1.3))


if __name__ == "__main__":
    main()
