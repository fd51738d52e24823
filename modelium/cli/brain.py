"""``modelium brain``: what the LLM was asked and said, and asking it again."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from modelium.cli import tables
from modelium.cli.options import ConfigFile, Json, client

REPLAY_S = 120.0
"""For an LLM to think: a few times the usual `brain.time_budget_seconds`."""

app = typer.Typer(no_args_is_help=True, help="See what the LLM was asked and said.")

Id = Annotated[str, typer.Argument(help="The decision's id, as `brain ls` and `explain` show it.")]


@app.command("ls")
def list_decisions(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 20,
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """List the decisions that the LLM was asked for, newest first."""
    found = client(config).get("/decisions", limit=limit, advised=True)
    if json_:
        _print(found)
    else:
        Console().print(tables.advised(found) if found else "the LLM was asked for none yet")


@app.command()
def show(decision: Id, config: ConfigFile = None, json_: Json = False) -> None:
    """Show one decision whole: every message, tool call, token and fault."""
    found = client(config).get(f"/decisions/{decision}")
    if json_:
        _print(found)
        return
    _lines(tables.decision(found))
    _lines(tables.conversation(found["trace"]))


@app.command()
def replay(decision: Id, config: ConfigFile = None, json_: Json = False) -> None:
    """Ask the LLM again, on the facts of then, and show both answers. Nothing is done."""
    found = client(config).send("POST", f"/decisions/{decision}/replay", wait_s=REPLAY_S)
    if json_:
        _print(found)
        return
    console = Console()
    for title, plan, trace in (
        ("then", found["decision"]["plan"], found["decision"]["trace"]),
        ("now", found["plan"], found["trace"]),
    ):
        console.print(Text(f"{title}: decided by {plan['author']}", style="bold"))
        console.print(tables.plan(plan))
        _lines(tables.advice(trace))


def _print(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _lines(lines: list[Any]) -> None:
    for line in lines:
        Console().print(line)
