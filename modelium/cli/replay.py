"""``modelium replay``: compare policies on a trace of requests."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from agents.replay.planner_under_replay import replay_policies
from agents.replay.result import ReplayResult
from agents.replay.simulation import replay as run
from agents.replay.store_trace import trace_from_log
from agents.replay.traces import Trace, parse_devices, read_trace
from modelium.cli.options import ConfigFile, Json
from modelium.cli.output import WRONG_INPUT, print_json
from modelium.config.loading import load
from modelium.errors import InputError

COLUMNS = {
    "policy": ("policy", "{}"),
    "cold_starts": ("cold\nstarts", "{}"),
    "load_seconds": ("load\nsecs", "{:.0f}"),
    "evictions": ("evic-\ntions", "{}"),
    "wait_p50_s": ("p50\nwait", "{:.2f}"),
    "wait_p99_s": ("p99\nwait", "{:.1f}"),
    "slo_attainment": ("SLO\nmet", "{:.2%}"),
    "occupancy": ("occu-\npancy", "{:.0%}"),
}
"""Field of the result → its heading, which fits a terminal of 80 columns, and its format."""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("replay")(replay)


def replay(
    devices: Annotated[str, typer.Option(help="Devices by usable GiB, e.g. 2x80 or 2x80,4x24.")],
    trace: Annotated[
        Path | None,
        typer.Argument(help="CSV: t_s,model,prompt_tokens,output_tokens (token counts optional)."),
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(help="CSV: model,footprint_gib,load_s and optionally service_s,priority."),
    ] = None,
    from_store: Annotated[
        bool, typer.Option("--from-store", help="Use Modelium's own request log as the trace.")
    ] = False,
    days: Annotated[
        float, typer.Option(min=0, help="With --from-store: days of the log to use.")
    ] = 7.0,
    policy: Annotated[
        list[str] | None, typer.Option(help="Policy to run; repeatable. Default: all.")
    ] = None,
    slo_s: Annotated[
        float,
        typer.Option("--slo-s", min=0, help="Longest wait that meets the SLO, in seconds."),
    ] = 30.0,
    cache_only: Annotated[
        bool,
        typer.Option("--cache-only", help="Simulate a cache: one memory pool, instant loads."),
    ] = False,
    auto_unload_after: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Also run the rules with this idle time-out, in seconds.",
        ),
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Replay requests over simulated devices under several policies, and compare them."""
    known = replay_policies(auto_unload_after_s=auto_unload_after)
    chosen = list(dict.fromkeys(policy or known))
    if auto_unload_after is not None and "rules+ttl" not in chosen:
        chosen.append("rules+ttl")
    try:
        results = run(
            _trace(trace, models, from_store, days, config),
            parse_devices(devices),
            chosen,
            slo_s=slo_s,
            cache_only=cache_only,
            known=known,
        )
    except InputError as exc:
        typer.echo(f"error: {exc}", err=True)
        raise typer.Exit(WRONG_INPUT) from exc
    if as_json:
        print_json({"policies": {r.policy: asdict(r) for r in results}})
    else:
        Console().print(_table(results))


def _trace(
    trace: Path | None, models: Path | None, from_store: bool, days: float, config: Path | None
) -> Trace:
    if not from_store:
        if trace is None or models is None:
            raise InputError("TRACE and --models are required unless --from-store is given")
        return read_trace(trace, models)
    if trace or models:
        raise InputError("--from-store provides requests and models; omit TRACE and --models")
    settings = load(config, os.environ)
    if settings.store.url is None and not (settings.orchestration.state / "modelium.db").exists():
        raise InputError(
            f"there is no store in {settings.orchestration.state}; name the configuration of the "
            "service with --config"
        )
    # Only this command opens the database, so others start faster.
    from modelium.store import Store
    from modelium.store.history import DAY_S

    store = Store.open(settings.store_url(), now=time.time)
    try:
        lines = store.history.requests(since=time.time() - days * DAY_S)
        return trace_from_log(store.view()[1], lines)
    finally:
        store.close()


def _table(results: list[ReplayResult]) -> Table:
    title = f"{results[0].requests} requests; waits in seconds"
    table = Table(title=title, box=None, header_style="bold", pad_edge=False)
    for heading, _ in (*COLUMNS.values(), ("p99\ndecision", "")):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for result in results:
        fields = asdict(result)
        cells = [
            "–" if fields[column] is None else form.format(fields[column])
            for column, (_, form) in COLUMNS.items()
        ]
        table.add_row(*cells, f"{result.decision_p99_s * 1000:.2f} ms")
    return table
