"""Orders something, waits for it, and shows on a terminal what happens to the model meanwhile."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console

from modelium.cli.client import Client
from modelium.cli.options import client as client_of
from modelium.cli.output import show_intent

ASK_S = 2.0
"""How long the service may hold one question for the intent's end."""

WITHIN_S = 600.0
"""How long a command waits for its intent; the intent goes on."""


def order(
    config: Path | None,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    *,
    as_json: bool,
    **query: Any,
) -> None:
    """Send what makes an intent, wait for its end and print the outcome.

    Raises: as `Client.send` and `show_intent`.
    """
    client = client_of(config)
    show_intent(finished(client, client.send(method, path, body, **query)), as_json=as_json)


def finished(client: Client, intent: dict[str, Any], *, within_s: float = WITHIN_S) -> Any:
    """Return ``intent`` when it has ended, or as it is after ``within_s`` seconds.

    Raises: as `Client.get`.
    """
    begin = time.monotonic()
    console = Console(stderr=True)
    with console.status(f"{intent['kind']} {intent['model'] or ''} …") as status:
        while intent["state"] == "pending" and (spent := time.monotonic() - begin) < within_s:
            intent = client.get(f"/intents/{intent['id']}", wait=min(ASK_S, within_s - spent))
            if console.is_terminal and intent["model"]:
                status.update(_line(client, intent, time.monotonic() - begin))
    return intent


def _line(client: Client, intent: dict[str, Any], spent_s: float) -> str:
    rows = [row for row in client.get("/models") if row["name"] == intent["model"]]
    doing = f"{rows[-1]['state']}: {rows[-1]['reason']}" if rows else "checking"
    text = f"{intent['kind']} {intent['model']}, {spent_s:.0f} s – {doing}"
    return text.replace("[", r"\[")
