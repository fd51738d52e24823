"""How commands print their results, and their exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text

FAILED = 1
"""The command was valid but did not succeed."""

WRONG_INPUT = 2
"""An argument, a file or the configuration is invalid."""

UNAVAILABLE = 3
"""The Modelium service, or something it needs, does not answer."""


def print_json(document: Any) -> None:
    """Print ``document`` as JSON."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def show(document: Any, shown: RenderableType, *, as_json: bool) -> None:
    """Print ``document`` as JSON, or ``shown``."""
    if as_json:
        print_json(document)
    else:
        Console().print(shown)


def print_lines(lines: Iterable[RenderableType]) -> None:
    """Print each of ``lines``."""
    console = Console()
    for line in lines:
        console.print(line)


def show_intent(intent: dict[str, Any], *, as_json: bool) -> None:
    """Print the outcome of an intent.

    Raises:
        typer.Exit: with `FAILED` if it failed or has not finished yet.
    """
    state = intent["state"]
    mark = {"done": ("✓", "green"), "failed": ("✗", "red")}.get(state, ("…", ""))
    detail = intent["detail"] or f"still in progress (intent {intent['id']})"
    # As text, not as markup: the detail may quote an engine or a file.
    said = Text.assemble(mark, f" {intent['kind']} {intent['model'] or ''}: {detail}")
    show(intent, said, as_json=as_json)
    if state != "done":
        raise typer.Exit(FAILED)
