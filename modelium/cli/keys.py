"""`modelium keys`: API keys of the running service."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from modelium.cli import tables
from modelium.cli.options import ConfigFile, Json, client
from modelium.models import Priority

app = typer.Typer(no_args_is_help=True, help="Issue, list and revoke API keys.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    team: Annotated[str | None, typer.Option(help="Team that its drops belong to.")] = None,
    priority: Annotated[
        Priority | None, typer.Option(help="Class of its requests while they wait for a load.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model that it may use (default: all); repeatable.")
    ] = None,
    requests_per_minute: Annotated[float | None, typer.Option(min=0.001)] = None,
    max_concurrent: Annotated[
        int | None, typer.Option(min=1, help="Requests in hand at a time.")
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="infer (the default), ingest or admin; repeatable."),
    ] = None,
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """Issue a key and print it: it is shown this once, only its hash is kept."""
    terms: dict[str, Any] = {
        "name": name,
        "team": team,
        "priority": priority.value if priority else None,
        "models": model or [],
        "requests_per_minute": requests_per_minute,
        "max_concurrent": max_concurrent,
        "scopes": scope or ["infer"],
    }
    answer = client(config).send("POST", "/keys", terms)
    # Plain, so that it can be piped into a secret's file.
    sys.stdout.write((json.dumps(answer, indent=2) if json_ else answer["secret"]) + "\n")


@app.command("list")
def list_keys(config: ConfigFile = None, json_: Json = False) -> None:
    """Show all keys and their terms; the keys themselves are not kept."""
    rows = client(config).get("/keys")
    if json_:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        Console().print(tables.keys(rows) if rows else "no keys yet")


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The key's id.")],
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """End a key for good, at once."""
    answer = client(config).send("DELETE", f"/keys/{key}")
    text = json.dumps(answer, indent=2) if json_ else f"{answer['name']} ({key}) is revoked"
    sys.stdout.write(text + "\n")
