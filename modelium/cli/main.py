"""The top-level commands; `modelium.cli` has a module for each group of further ones."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from modelium import __version__
from modelium.cli import brain, keys, nodes, outcome_tables, prefect, tables
from modelium.cli import config as config_commands
from modelium.cli.backup import register as register_backup
from modelium.cli.completion import model_names
from modelium.cli.doctor import configuration, examine
from modelium.cli.inspect import register as register_inspect
from modelium.cli.options import ConfigFile, Json, hide_types_of_flags
from modelium.cli.options import client as _client
from modelium.cli.output import (
    FAILED,
    UNAVAILABLE,
    WRONG_INPUT,
    print_json,
    print_lines,
    show,
)
from modelium.cli.replay import register as register_replay
from modelium.cli.selftest import register as register_selftest
from modelium.cli.up import register as register_up
from modelium.cli.versions import register as register_versions
from modelium.cli.visible import visible
from modelium.cli.waiting import order
from modelium.config import Config
from modelium.config.loading import load as load_config
from modelium.control import service_lock
from modelium.errors import InputError, ModeliumError, StoreUnavailable, Unavailable
from modelium.models import Priority

UNCHANGED = (
    "nothing has changed since the configuration was last read (a saved file is read at once)"
)

SHORTAGES = {
    errno.ENOSPC: "free space on that disk",
    errno.EDQUOT: "free space within the user's quota",
    errno.EROFS: "mount that file system writable",
    errno.EMFILE: "raise the limit of open files (ulimit -n, LimitNOFILE)",
    errno.ENFILE: "raise the system's limit of open files (sysctl fs.file-max)",
}
"""Errors of the machine that may meet any command, and what to do."""

LATEST = 5
"""Rejected drops that `ls` shows below the models."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Modelium loads, monitors and evicts ML models on GPU machines: drop a model folder and "
    "it is analyzed, placed and served.",
)
app.add_typer(config_commands.app, name="config")
app.add_typer(keys.app, name="keys")
app.add_typer(nodes.app, name="nodes")
app.add_typer(brain.app, name="brain")
app.add_typer(prefect.app, name="prefect")
register_up(app)
register_backup(app)
register_inspect(app)
register_replay(app)
register_selftest(app)
register_versions(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


Name = Annotated[str, typer.Argument(help="Name of the model.", autocompletion=model_names)]


def main() -> None:
    """Run a command; a `ModeliumError` becomes a message and an exit code."""
    command = typer.main.get_command(app)
    hide_types_of_flags(command, path="modelium")
    try:
        command(prog_name="modelium")
    except (ModeliumError, OSError) as exc:
        if isinstance(exc, OSError) and exc.errno not in SHORTAGES:
            raise
        # The terminal wraps it: a command in it can be copied, and a log has it on one line.
        said = Text.assemble(("error:", "red"), f" {_sentence(exc)}")
        Console(stderr=True).print(said, soft_wrap=True)
        raise SystemExit(_exit_code(exc)) from exc


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Take the options that stand before any command."""


@app.command()
def down(config: ConfigFile = None, json_: Json = False) -> None:
    """Stop Modelium on this machine, unload all models and stop the servers that it started.

    Stopping `modelium up` alone leaves models serving; the next start adopts them.
    """
    from modelium.app import end

    settings = _config(config)
    stopped = service_lock.stop(settings.orchestration.state)
    ended = asyncio.run(end(settings))
    service = "stopped" if stopped else "was not running"
    text = f"service {service}; unloaded: {', '.join(ended) or 'no model'}"
    show({"stopped": stopped, "ended": ended}, text, as_json=json_)


@app.command()
def reload(config: ConfigFile = None, json_: Json = False) -> None:
    """Have the running service read its configuration again; exit code 2 if it is invalid.

    It also does so when the file changes, and on SIGHUP.
    """
    answer = _client(config).send("POST", "/reload")
    lines = [f"[green]✓[/] {escape(change)}" for change in answer["changed"]]
    lines += [f"[yellow]![/] {escape(field)}" for field in answer["restart"]]
    if answer["models"]:
        lines.append(f"changed models: {', '.join(answer['models'])}")
    show(answer, "\n".join(lines) or UNCHANGED, as_json=json_)


@app.command("ls")
def list_models(
    drops: Annotated[
        bool, typer.Option("--drops", help="List all drops that are no models, and why.")
    ] = False,
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """List all models with state, runtime, device, memory, idle time, QPS and reason.

    Drops that are arriving or incomplete, and the latest rejected ones, follow below.
    """
    client = _client(config)
    if drops:
        found = client.get("/drops")
        shown = tables.drops(found, now=time.time(), width=Console().width)
        show(found, shown if found else "no drops beside the models", as_json=json_)
        return
    rows = client.get("/models")
    incoming = load_config(config, os.environ).orchestration.incoming_directory
    none = f"no models yet: drop a folder into {incoming}"
    show(rows, tables.models(rows, width=Console().width) if rows else Text(none), as_json=json_)
    if json_:
        return
    found = client.get("/drops")
    rejected = [drop for drop in found if drop["state"] == "rejected"]
    latest = [drop for drop in found if drop not in rejected[LATEST:]]
    if latest:
        print_lines(["", tables.drops(latest, now=time.time(), width=Console().width)])
    if hidden := len(found) - len(latest):
        print_lines([f"and {hidden} more rejected drops: modelium ls --drops"])
    print_lines(Text(notice, style="yellow") for notice in client.get("/status")["notices"])


@app.command()
def ingest(
    path: Annotated[
        str, typer.Argument(help="Model folder, file or archive, or a URL s3://BUCKET/PREFIX.")
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the model. Default: derived from the path.")
    ] = None,
    team: Annotated[str | None, typer.Option(help="Team that owns the model.")] = None,
    priority_ceiling: Annotated[
        Priority | None, typer.Option(help="Highest priority class that a plan may assign.")
    ] = None,
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """Ingest a model. It is copied, or moved if it is in the drop zone.

    URLs have to be among `ingest.sources`.
    """
    body = {
        "path": path if "://" in path else str(Path(path).absolute()),
        "name": name,
        "team": team,
        "priority_ceiling": priority_ceiling.value if priority_ceiling else None,
    }
    order(config, "POST", "/ingest", body, as_json=json_)


@app.command()
def load(model: Name, config: ConfigFile = None, json_: Json = False) -> None:
    """Load a model now."""
    order(config, "POST", f"/models/{model}/load", as_json=json_)


@app.command()
def retry(model: Name, config: ConfigFile = None, json_: Json = False) -> None:
    """Load a failed or quarantined model now, as if it had not failed before."""
    order(config, "POST", f"/models/{model}/retry", as_json=json_)


@app.command()
def unload(model: Name, config: ConfigFile = None, json_: Json = False) -> None:
    """Unload a model after its requests in flight have finished; abort a load in progress."""
    order(config, "POST", f"/models/{model}/unload", as_json=json_)


@app.command()
def approve(
    name: Annotated[str, typer.Argument(help="Rejected drop, as `modelium ls` names it.")],
    team: Annotated[
        str | None,
        typer.Option(help="Whose drop, where several teams have one; '': that of no team."),
    ] = None,
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """Approve the risk that a drop was rejected for (see its reason.json), and ingest it."""
    body: dict[str, Any] = {"what": [], "team": team}
    order(config, "POST", f"/models/{name}/approve", body, as_json=json_)


@app.command()
def pin(
    model: Name,
    off: Annotated[bool, typer.Option("--off", help="Unpin the model.")] = False,
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """Exempt a model from eviction."""
    answer = _client(config).send("PUT", f"/models/{model}/pin", {"pinned": not off})
    show(answer, f"{model} is {'no longer ' if off else ''}pinned", as_json=json_)


@app.command()
def explain(model: Name, config: ConfigFile = None, json_: Json = False) -> None:
    """Show why a model, or a drop, is in its state: decisions, rejected candidates, events."""
    answer = _client(config).get(f"/models/{quote(model, safe='')}/explain")
    if json_:
        print_json(answer)
        return
    console = Console()
    known = answer["model"]
    if known or not answer["drops"]:
        state, reason = (tables.state(known), f": {known['reason']}") if known else ("removed", "")
        console.print(
            f"[bold]{escape(model)}[/bold] is [bold]{state}[/bold]{escape(visible(reason))}"
        )
    print_lines(Text(f"  {visible(sentence)}") for sentence in answer.get("owner", ()))
    for drop in answer["drops"]:
        print_lines(tables.drop(drop))
    for decision in answer["decisions"]:
        console.print()
        print_lines(tables.decision(decision))
        print_lines(outcome_tables.outcomes(answer["outcomes"], decision["id"]))
    console.print()
    print_lines(tables.event(event) for event in reversed(answer["events"]))


@app.command()
def teams(config: ConfigFile = None, json_: Json = False) -> None:
    """List teams: their models, and what they hold and have used of their quotas."""
    rows = _client(config).get("/teams")
    show(rows, tables.teams(rows) if rows else "no teams", as_json=json_)


@app.command()
def plan(
    model: Name,
    dry_run: Annotated[
        bool, typer.Option("--dry-run/--do", help="Only show the plan, or also load the model.")
    ] = True,
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """Show how a model would be loaded, and which models would be evicted for it."""
    client = _client(config)
    answer = client.send("POST", "/plan", {"model": model})
    show(answer, tables.plan(answer), as_json=json_)
    if not dry_run:
        order(config, "POST", f"/models/{model}/load", as_json=json_)


@app.command()
def doctor(config: ConfigFile = None, json_: Json = False) -> None:
    """Check the installation and the configuration; exit code 1 if there is a problem."""
    findings = [configuration(config, os.environ), *examine(_config(config))]
    lines = "\n".join(
        f"[{'green' if f.ok else 'red'}]{'✓' if f.ok else '✗'}[/] {f.what}: {f.detail}"
        for f in findings
    )
    show([f.model_dump() for f in findings], lines, as_json=json_)
    if not all(f.ok for f in findings):
        raise typer.Exit(FAILED)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _config(path: Path | None) -> Config:
    return load_config(path, os.environ)


def _sentence(exc: ModeliumError | OSError) -> str:
    if isinstance(exc, ModeliumError):
        return str(exc)
    where = f" ({exc.filename})" if exc.filename else ""
    return f"{exc.strerror}{where}; {SHORTAGES[exc.errno or 0]}, then try again"


def _exit_code(exc: ModeliumError | OSError) -> int:
    if isinstance(exc, OSError):
        return FAILED
    if isinstance(exc, Unavailable | StoreUnavailable):
        return UNAVAILABLE
    return WRONG_INPUT if isinstance(exc, InputError) else FAILED
