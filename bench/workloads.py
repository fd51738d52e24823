"""Traces for the replay benchmark: ServeGen clients as models, and a synthetic bursty trace.

ServeGen (alibaba/ServeGen, Apache-2.0) has, per client and 10-minute window, an arrival rate, a CV
and a distribution of gaps (Gamma or Weibull with a shape). Each client becomes one model; its
requests are drawn from that distribution, with the rates scaled so that a cell has about a given
number of requests. Footprints and load times are drawn too, because the data has none.
"""

from __future__ import annotations

import csv
import lzma
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from agents.replay.traces import ReplayModel, Request, Trace
from modelium.models import GIB

Array = npt.NDArray[np.float64]
WINDOW_S = 600.0
DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Window:
    """One client in one 10-minute window."""

    t_s: float
    rate: float
    law: str
    shape: float


Clients = dict[tuple[str, str], list[Window]]


def servegen(path: Path) -> Clients:
    """Read ``servegen_first_week.csv.xz``: (production model, client) → windows."""
    found: Clients = defaultdict(list)
    with lzma.open(path, "rt") as file:
        for row in csv.DictReader(file):
            found[row["model"], row["client"]].append(
                Window(
                    float(row["t_s"]),
                    float(row["rate_rps"]),
                    row["dist"],
                    min(max(float(row["p1"] or 1), 0.03), 50.0),
                )
            )
    return dict(found)


def cell(
    clients: Clients, groups: set[str], *, requests: int, days: float, spread: float, seed: int
) -> Trace:
    """Draw one trace from the clients of ``groups``.

    Args:
        clients: from `servegen`.
        groups: production models whose clients take part.
        requests: approximate total.
        days: number of days from the beginning of the week.
        spread: exponent on the clients' mean rates: 1 keeps their ratio, 0.5 narrows it.
        seed: for all random values.
    """
    rng = np.random.default_rng(seed)
    until = days * DAY_S
    used = {}
    for key in sorted(clients):
        windows = [w for w in clients[key] if w.t_s < until and w.rate > 0]
        if key[0] in groups and windows:
            used[key] = (windows, sum(w.rate for w in windows) * WINDOW_S / until)
    scale = requests / (sum(mean**spread for _, mean in used.values()) * until)
    times: list[Array] = []
    for windows, mean in used.values():
        factor = scale * mean**spread / mean
        drawn = [_arrivals(rng, w, w.rate * factor) for w in windows]
        times.append(np.concatenate(drawn))
    return trace(rng, [t for t in times if len(t)])


def _arrivals(rng: np.random.Generator, window: Window, rate: float) -> Array:
    """Return arrivals of the window's renewal process, started at a random point of a gap."""
    enough = int(rate * WINDOW_S * 3 + 10)
    shape = window.shape
    if window.law == "Gamma":
        gaps = rng.gamma(shape, 1 / (shape * rate), enough)
    else:
        gaps = rng.weibull(shape, enough) / (rate * math.gamma(1 + 1 / shape))
    skip = int(rng.integers(0, enough // 3)) if enough > 12 else 0
    at = np.cumsum(gaps[skip:]) - gaps[skip] * rng.random()
    return np.asarray(at[(at >= 0) & (at < WINDOW_S)] + window.t_s, dtype=np.float64)


def bursty(*, models: int = 120, days: float = 1.0, seed: int = 0) -> Trace:
    """Return sessions of a dozen requests 20 s apart, hours apart; every third model has a timer."""
    rng = np.random.default_rng(seed)
    until = days * DAY_S
    times = []
    for i in range(models):
        if i % 3 == 0:
            period = float(rng.choice([300, 600, 900, 1800, 3600]))
            at = np.arange(rng.uniform(0, period), until, period)
            times.append(np.clip(at + rng.normal(0, 2, len(at)), 0, until))
            continue
        pause, t = float(rng.lognormal(8.5, 1.0)), float(rng.exponential(3600))
        mine: list[float] = []
        while t < until:
            for _ in range(int(rng.geometric(0.08))):
                mine.append(t)
                t += float(rng.exponential(20))
            t += float(rng.exponential(pause))
        times.append(np.array([x for x in mine if x < until]))
    return trace(rng, [t for t in times if len(t)])


def trace(rng: np.random.Generator, times: list[Array]) -> Trace:
    """Return a trace with one model per series: 1–140 GiB, load time by size, a third slow."""
    models = []
    for i in range(len(times)):
        gib = float(np.clip(rng.lognormal(2.6, 0.9), 1, 140))
        load = (5 + gib * rng.uniform(0.3, 1.2)) * rng.choice([1, 1, 2])
        models.append(ReplayModel(name=f"client-{i}", bytes=int(gib * GIB), load_s=float(load)))
    events = sorted((float(t), i) for i, series in enumerate(times) for t in series)
    return Trace(models=tuple(models), requests=tuple(Request(t, i) for t, i in events))


def faster(trace: Trace, factor: float) -> Trace:
    """Return ``trace`` sped up by ``factor``."""
    return Trace(
        models=trace.models,
        requests=tuple(Request(r.t_s / factor, r.model, r.service_s) for r in trace.requests),
    )
