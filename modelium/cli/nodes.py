"""``modelium nodes``: the machines that share the store."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console

from modelium.cli import node_tables
from modelium.cli.client import Client
from modelium.cli.options import ConfigFile, Json, client
from modelium.cli.output import FAILED, print_json, print_lines, show
from modelium.cli.visible import visible

LOOK_S = 2.0
"""Between two looks at a node that is being drained."""

STILL_S = 30.0
"""For which nothing may leave before the command gives up: the planner looks every few seconds."""

ARRIVES_S = 120.0
"""For which models that left may be queued: the planner loads them half a minute later."""

app = typer.Typer(help="List the machines that share the store; take them in and out of use.")

Name = Annotated[str, typer.Argument(help="Name of the machine, as `modelium nodes` lists it.")]


@app.callback(invoke_without_command=True)
def list_nodes(context: typer.Context, config: ConfigFile = None, json_: Json = False) -> None:
    """List all machines: state, memory, version, models, last heartbeat; `*` plans."""
    if context.invoked_subcommand is not None:
        return
    rows = client(config).get("/nodes")
    show(rows, node_tables.nodes(rows, width=Console().width), as_json=json_)


@app.command("show")
def show_node(name: Name, config: ConfigFile = None, json_: Json = False) -> None:
    """Show one machine: devices, runtimes, labels, models, and what keeps them from leaving."""
    detail = client(config).get(_path(name))
    if json_:
        print_json(detail)
    else:
        print_lines(node_tables.detail(detail))


@app.command()
def cordon(name: Name, config: ConfigFile = None, json_: Json = False) -> None:
    """Load nothing new on a machine; what it has stays."""
    row = client(config).send("POST", _path(name, "cordon"))
    show(row, f"{name} is cordoned: nothing new is loaded there", as_json=json_)


@app.command()
def uncordon(name: Name, config: ConfigFile = None, json_: Json = False) -> None:
    """Use a machine again that was cordoned or drained."""
    row = client(config).send("POST", _path(name, "uncordon"))
    show(row, f"{name} is in use", as_json=json_)


@app.command()
def drain(
    name: Name,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Wait until no more leaves; exit code 1 if any stays."),
    ] = False,
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """Load nothing new on a machine, and move its models to others, one at a time.

    A model stays, and serves on, where no other machine can hold it now.
    """
    service = client(config)
    service.send("POST", _path(name, "drain"))
    if not wait:
        detail = service.get(_path(name))
        text = f"{name} is being drained; it has {len(detail['node']['models'])} models"
        show(detail, f"{text} (`modelium nodes show {name}`)", as_json=json_)
        return
    before = service.get(_path(name))["node"]["models"]
    detail = _drained(service, name, quiet=json_)
    left = detail["node"]["models"]
    waiting = _arrived(service, set(before) - set(left))
    if json_:
        print_json(detail)
    elif waiting and not left:
        text = f"{name} has none loaded, but is not to be stopped if it alone has the files of"
        print_lines([f"{text}: {', '.join(map(visible, waiting))} (not loaded elsewhere yet)"])
    elif not left:
        show(detail, f"{name} has no models any more: Modelium can be stopped there", as_json=False)
    else:
        print_lines([f"{name} has {len(left)} models left:", *node_tables.staying(detail)])
    if left or waiting:
        raise typer.Exit(FAILED)


@app.command()
def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """Give up a machine that is gone for good; its models are loaded elsewhere."""
    if sys.stdin.isatty() and not yes:
        typer.confirm(f"Remove {name}? What still runs there must not serve any more.", abort=True)
    answer = client(config).send("DELETE", _path(name))
    queued = ", ".join(answer["queued"])
    text = f"{name} is removed" + (f"; queued again: {queued}" if queued else "")
    show(answer, text, as_json=json_)


@app.command()
def token(config: ConfigFile = None, json_: Json = False) -> None:
    """Print a token with which one machine joins, and the lines for its configuration."""
    answer = client(config).send("POST", "/nodes/token")
    if json_:
        print_json(answer)
        return
    hours = answer["valid_s"] / 3600
    sys.stdout.write(
        f"{answer['token']}\n\n"
        f"# once, within {hours:.0f} hours; for modelium.yaml of the new machine, with store.url:\n"
        f"orchestration:\n  join_token: {answer['token']}\n"
    )


def _path(name: str, *rest: str) -> str:
    return "/".join(["/nodes", quote(name, safe=""), *rest])


def _drained(service: Client, name: str, *, quiet: bool) -> Any:
    """Follow a drain until all models have left, or none has for `STILL_S`; return the end."""
    detail: dict[str, Any] = service.get(_path(name))
    left, since = set(detail["node"]["models"]), time.monotonic()
    while left and time.monotonic() - since < STILL_S:
        time.sleep(LOOK_S)
        detail = service.get(_path(name))
        now = set(detail["node"]["models"])
        gone = sorted(left - now)
        if gone and not quiet:
            _tell(service, gone)
        if gone or detail["leaving"] or detail["node"]["state"] != "draining":
            since = time.monotonic()
        if detail["node"]["state"] != "draining":
            break  # somebody has changed their mind
        left = now
    return detail


def _arrived(service: Client, moved: set[str]) -> list[str]:
    """Wait until the models that left are loaded elsewhere; return those that are not."""
    since = time.monotonic()
    while True:
        states = {row["name"]: row["state"] for row in service.get("/models")}
        waiting = sorted(model for model in moved if states.get(model) in ("queued", "loading"))
        if any(states[model] == "loading" for model in waiting):
            since = time.monotonic()
        if not waiting or time.monotonic() - since >= ARRIVES_S:
            return sorted(model for model in moved if states.get(model) == "failed") + waiting
        time.sleep(LOOK_S)


def _tell(service: Client, gone: list[str]) -> None:
    at = {row["name"]: row for row in service.get("/models")}
    for model in gone:
        row = at.get(model)
        where = ", ".join(row["nodes"]) if row else ""
        what = "removed" if row is None else f"on {where}" if where else row["state"]
        Console(stderr=True).print(f"{visible(model)}: {what}", markup=False)
