"""``modelium brain``: decisions that an LLM took part in, and replaying them."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.text import Text

from modelium.cli import outcome_tables, tables
from modelium.cli.options import ConfigFile, Json, client
from modelium.cli.output import print_json, print_lines, show
from modelium.config.fields import Interval
from modelium.models import Trigger

REPLAY_S = 120.0
"""Time for the LLM to answer: a few times the usual `brain.time_budget_seconds`."""

NEVER = "the LLM has not taken part in any decision yet"

app = typer.Typer(no_args_is_help=True, help="Inspect and replay decisions of the LLM.")

Id = Annotated[str, typer.Argument(help="Decision id, as shown by `brain ls` and `explain`.")]


def _span(text: str) -> float:
    """Return ``text``, such as ``7d``, in seconds."""
    try:
        return TypeAdapter(Interval).validate_python(text)
    except ValidationError as exc:
        raise typer.BadParameter(f"{text!r} is no time: write 90s, 30m, 12h or 7d") from exc


@app.command("ls")
def list_decisions(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number of rows.")] = 20,
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """List decisions that the LLM took part in, newest first."""
    found = client(config).get("/decisions", limit=limit, advised=True)
    shown = tables.advised(found, width=Console().width) if found else NEVER
    show(found, shown, as_json=json_)


@app.command("show")
def show_decision(
    decision: Id,
    messages: Annotated[
        bool, typer.Option("--messages", help="Also print all messages and tool calls.")
    ] = False,
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """Show a decision on one page: what was offered, looked up, chosen, refused and done."""
    found = client(config).get(f"/decisions/{decision}")
    if json_:
        print_json(found)
        return
    print_lines(tables.trace_page(found))
    if messages:
        print_lines(tables.conversation(found["trace"]))


@app.command()
def report(
    since: Annotated[
        str, typer.Option(help="How far back: 90s, 30m, 12h, 7d.", parser=_span)
    ] = "7d",
    trigger: Annotated[
        Trigger | None, typer.Option(help="Only decisions of this trigger. Default: all.")
    ] = None,
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """Compare who decided: cold starts, load-seconds, failures, reversals. Changes nothing."""
    query = {"seconds": since} | ({"trigger": trigger.value} if trigger else {})
    found = client(config).get("/brain/report", **query)
    print_json(found) if json_ else print_lines(outcome_tables.authors(found))


@app.command()
def replay(decision: Id, config: ConfigFile = None, json_: Json = False) -> None:
    """Send the decision's recorded facts to the LLM again and compare. Changes nothing."""
    found = client(config).send("POST", f"/decisions/{decision}/replay", wait_s=REPLAY_S)
    if json_:
        print_json(found)
        return
    console = Console()
    for title, plan, trace in (
        ("original", found["decision"]["plan"], found["decision"]["trace"]),
        ("replayed", found["plan"], found["trace"]),
    ):
        console.print(Text(f"{title}: decided by {plan['author']}", style="bold"))
        console.print(tables.plan(plan))
        print_lines(tables.advice(trace))
