"""Small traces and their replays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agents.replay.planner_under_replay import (
    replay_policies,
)
from agents.replay.result import ReplayResult
from agents.replay.simulation import replay
from agents.replay.traces import ReplayModel, Request, Trace
from modelium.models import (
    GIB,
)


def trace(requests: Sequence[tuple[float, str]], **models: tuple[float, float]) -> Trace:
    """Requests of one second at the engine; models by (GiB, load seconds)."""
    names = list(models)
    return Trace(
        models=tuple(
            ReplayModel(name=n, bytes=int(gib * GIB), load_s=load)
            for n, (gib, load) in models.items()
        ),
        requests=tuple(Request(t, names.index(n)) for t, n in requests),
    )


def run(
    what: Trace, policy: str, gib: Sequence[float] = (100,), *, cache_only: bool = True
) -> ReplayResult:
    devices = [int(g * GIB) for g in gib]
    (result,) = replay(what, devices, [policy], cache_only=cache_only, known=replay_policies())
    return result


THREE = {"a": (40.0, 10.0), "b": (40.0, 10.0), "c": (40.0, 10.0)}


def cold(requests: str, policy: str, **models: tuple[float, float]) -> int:
    """Cold starts of one request per letter, a minute apart, with room for two of three."""
    what = trace([(i * 60.0, n) for i, n in enumerate(requests)], **(models or THREE))
    return run(what, policy).cold_starts


def trace_files(folder: Path) -> tuple[Path, Path]:
    """Write a trace of three requests and its two models; return both paths."""
    requests, models = folder / "trace.csv", folder / "models.csv"
    requests.write_text(
        "t_s,model,prompt_tokens,output_tokens\n5,org/b,,\n0,a,800,4\n9,a,,\n", encoding="utf-8"
    )
    models.write_text(
        "model,footprint_gib,load_s,priority\na,50,10,high\norg/b,20,5,\n", encoding="utf-8"
    )
    return requests, models
