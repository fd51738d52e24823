"""The commands."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.logging import RichHandler

from modelium import __version__
from modelium.cli import brain, tables
from modelium.cli import config as config_commands
from modelium.cli import keys as key_commands
from modelium.cli.doctor import examine
from modelium.cli.inspect import register as register_inspect
from modelium.cli.options import ConfigFile, Json
from modelium.cli.options import client as _client
from modelium.cli.replay import register as register_replay
from modelium.config import Config
from modelium.config.loading import load as load_config
from modelium.control import service_lock
from modelium.errors import InputError, ModeliumError, Unavailable
from modelium.models import Priority

WAIT_S = 600.0
"""How long `ingest`, `load` and `unload` follow what they set off."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Drop a model folder; Modelium analyzes, places, loads, watches and evicts it.",
)
app.add_typer(config_commands.app, name="config", help="Check, show and document settings.")
app.add_typer(key_commands.app, name="keys")
app.add_typer(brain.app, name="brain", help="See what the LLM was asked and said.")
register_inspect(app)
register_replay(app)

Name = Annotated[str, typer.Argument(help="The model's name.")]


def main() -> None:
    """Run a command; errors of Modelium become one line and an exit code."""
    try:
        app()
    except ModeliumError as exc:
        Console(stderr=True).print(f"[red]error:[/red] {exc}", highlight=False)
        raise SystemExit(_code(exc)) from exc


@app.command()
def up(config: ConfigFile = None) -> None:
    """Start Modelium and run until Ctrl-C."""
    # Runs log to Prefect's own UI; on this console they would drown the service's lines.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "ERROR")
    import uvloop

    from modelium.app import running

    logging.basicConfig(
        level=logging.INFO,
        force=True,  # Prefect has set its own by now
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False)],
    )
    # One line per request of our own clients says nothing that the gateway does not count.
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)
    settings = _config(config)

    async def serve() -> None:
        serving = asyncio.current_task()
        assert serving is not None  # noqa: S101 - inside asyncio.run
        # What service managers send means the same as Ctrl-C, and a shell that starts this in
        # the background leaves SIGINT ignored: both are handled here.
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
        async with running(settings) as modelium:
            console = Console()
            for name, url in modelium.endpoints().items():
                console.print(f"[bold]{name:<12}[/bold] {url}", highlight=False)
            console.print(f"drop models into {settings.orchestration.incoming_directory}")
            await asyncio.Event().wait()

    try:
        uvloop.run(serve())
    except asyncio.CancelledError:
        Console(stderr=True).print("stopped")


@app.command()
def down(config: ConfigFile = None, json_: Json = False) -> None:
    """End Modelium on this machine with all that it started: models, engines, servers.

    Stopping `modelium up` alone leaves models serving, for the next start to find.
    """
    from modelium.app import end

    settings = _config(config)
    stopped = service_lock.stop(settings.orchestration.state)
    ended = asyncio.run(end(settings))
    told = f"{'stopped' if stopped else 'was not running'}; ended: {', '.join(ended) or 'no model'}"
    _show({"stopped": stopped, "ended": ended}, told, as_json=json_)


@app.command("ls")
def list_models(config: ConfigFile = None, json_: Json = False) -> None:
    """Show all models: state, runtime, device, memory, idle time, QPS and why."""
    rows = _client(config).get("/models")
    _show(rows, tables.models(rows) if rows else "no models yet", as_json=json_)


@app.command()
def ingest(
    path: Annotated[Path, typer.Argument(help="Folder, file or archive.")],
    name: Annotated[str | None, typer.Option(help="What to call it.")] = None,
    team: Annotated[str | None, typer.Option(help="Owning team.")] = None,
    priority_ceiling: Annotated[
        Priority | None, typer.Option(help="Highest priority class that a plan may give it.")
    ] = None,
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """Take a model in; a copy, unless it lies in the drop zone."""
    body = {
        "path": str(path.absolute()),
        "name": name,
        "team": team,
        "priority_ceiling": priority_ceiling.value if priority_ceiling else None,
    }
    _follow(_client(config).send("POST", "/ingest", body, wait_s=WAIT_S), as_json=json_)


@app.command()
def load(model: Name, config: ConfigFile = None, json_: Json = False) -> None:
    """Load a model now."""
    answer = _client(config).send("POST", f"/models/{model}/load", wait_s=WAIT_S)
    _follow(answer, as_json=json_)


@app.command()
def unload(model: Name, config: ConfigFile = None, json_: Json = False) -> None:
    """Unload a model, once its requests are answered."""
    answer = _client(config).send("POST", f"/models/{model}/unload", wait_s=WAIT_S)
    _follow(answer, as_json=json_)


@app.command()
def approve(
    name: Annotated[str, typer.Argument(help="Name of the refused drop.")],
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """Allow what a drop was refused for (see its reason.json), and take it in."""
    body: dict[str, Any] = {"what": []}
    answer = _client(config).send("POST", f"/models/{name}/approve", body, wait_s=WAIT_S)
    _follow(answer, as_json=json_)


@app.command()
def pin(
    model: Name,
    off: Annotated[bool, typer.Option("--off", help="Unpin it.")] = False,
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """Keep a model from being evicted."""
    answer = _client(config).send("PUT", f"/models/{model}/pin", {"pinned": not off})
    _show(answer, f"{model} is {'no longer ' if off else ''}pinned", as_json=json_)


@app.command()
def explain(model: Name, config: ConfigFile = None, json_: Json = False) -> None:
    """Say why a model is where it is: its decisions, what lost, and what happened."""
    answer = _client(config).get(f"/models/{model}/explain")
    if json_:
        _show(answer, "", as_json=True)
        return
    console = Console()
    known = answer["model"]
    console.print(f"[bold]{model}[/bold] is [bold]{known['state']}[/bold]: {known['reason']}")
    for decision in answer["decisions"]:
        console.print()
        for line in tables.decision(decision):
            console.print(line)
    console.print()
    for event in reversed(answer["events"]):
        console.print(tables.event(event))


@app.command()
def plan(
    model: Name,
    dry_run: Annotated[
        bool, typer.Option("--dry-run/--do", help="Only show it, or load the model.")
    ] = True,
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """Show what would be done to load a model, and what would be evicted for it."""
    client = _client(config)
    answer = client.send("POST", "/plan", {"model": model})
    _show(answer, tables.plan(answer), as_json=json_)
    if not dry_run:
        _follow(client.send("POST", f"/models/{model}/load", wait_s=WAIT_S), as_json=json_)


@app.command()
def doctor(config: ConfigFile = None, json_: Json = False) -> None:
    """Check this installation and its configuration; exit code 1 where something is wrong."""
    findings = examine(_config(config))
    lines = "\n".join(
        f"[{'green' if f.ok else 'red'}]{'✓' if f.ok else '✗'}[/] {f.what}: {f.detail}"
        for f in findings
    )
    _show([f.model_dump() for f in findings], lines, as_json=json_)
    if not all(f.ok for f in findings):
        raise typer.Exit(1)


@app.command()
def version() -> None:
    """Show the version."""
    Console().print(__version__)


def _config(path: Path | None) -> Config:
    return load_config(path, os.environ)


def _show(document: Any, shown: RenderableType, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        Console().print(shown)


def _follow(intent: dict[str, Any], *, as_json: bool) -> None:
    """Show an intent's outcome; a failed or unfinished one is exit code 1."""
    state = intent["state"]
    mark = {"done": "[green]✓[/]", "failed": "[red]✗[/]"}.get(state, "…")
    detail = intent["detail"] or f"still under way (intent {intent['id']})"
    _show(intent, f"{mark} {intent['kind']} {intent['model'] or ''}: {detail}", as_json=as_json)
    if state != "done":
        raise typer.Exit(1)


def _code(exc: ModeliumError) -> int:
    if isinstance(exc, Unavailable):
        return 3
    return 2 if isinstance(exc, InputError) else 1
