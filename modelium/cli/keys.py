"""``modelium keys``: API keys of the running service."""

from __future__ import annotations

import re
import sys
import time
from typing import Annotated, Any

import typer

from modelium.cli import tables
from modelium.cli.options import ConfigFile, Json, client
from modelium.cli.output import print_json, show
from modelium.errors import InputError
from modelium.models import Priority

app = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the key, e.g. of its user.")],
    team: Annotated[
        str | None, typer.Option(help="Team that the key acts for, and that owns what it ingests.")
    ] = None,
    priority: Annotated[
        Priority | None, typer.Option(help="Priority of its requests while they wait for a load.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model that the key may use; repeatable. Default: all models."),
    ] = None,
    requests_per_minute: Annotated[
        float | None, typer.Option(min=0.001, help="Rate limit. Default: none.")
    ] = None,
    max_concurrent: Annotated[
        int | None, typer.Option(min=1, help="Limit on concurrent requests. Default: none.")
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="infer, ingest or admin; repeatable. Default: infer."),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(help="How long it is valid, e.g. 12h, 30d or 52w. Default: until revoked."),
    ] = None,
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """Create a key and print it. It is shown only once, because only its hash is stored."""
    terms: dict[str, Any] = {
        "name": name,
        "team": team,
        "priority": priority.value if priority else None,
        "models": model or [],
        "requests_per_minute": requests_per_minute,
        "max_concurrent": max_concurrent,
        "scopes": scope or ["infer"],
        "expires_at": None if expires is None else time.time() + lifetime_s(expires),
    }
    answer = client(config).send("POST", "/keys", terms)
    if json_:
        print_json(answer)
    else:
        # Nothing else, so that the output can be redirected to a file.
        sys.stdout.write(answer["secret"] + "\n")


@app.command("ls")
@app.command("list", hidden=True)
def list_keys(config: ConfigFile = None, json_: Json = False) -> None:
    """List all keys with their limits and scopes, without the secrets."""
    rows = client(config).get("/keys")
    show(rows, tables.keys(rows) if rows else "no keys yet", as_json=json_)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Id or name of the key.")],
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """Revoke a key immediately and permanently."""
    service = client(config)
    found = _id_of(key, service.get("/keys"))
    answer = service.send("DELETE", f"/keys/{found}")
    show(answer, f"{answer['name']} ({found}) is revoked", as_json=json_)


def lifetime_s(given: str) -> float:
    """Return the seconds of ``given``: a whole number with the unit m, h, d or w.

    Raises:
        InputError: it is none, or no key should be valid for that long.
    """
    units_s = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
    number, unit = given[:-1], given[-1:]
    if unit not in units_s or not re.fullmatch(r"[0-9]{1,6}", number) or not int(number):
        raise InputError(f"--expires: {given!r} is no time; write for example 12h, 30d or 52w")
    return float(int(number) * units_s[unit])


def _id_of(key: str, known: list[dict[str, Any]]) -> str:
    """Return the id of the key that ``key`` names, by id or by name.

    Raises:
        InputError: there is none, or there are several of that name.
    """
    if any(row["id"] == key for row in known):
        return key
    named = [str(row["id"]) for row in known if row["name"] == key]
    if not named:
        raise InputError(f"there is no key {key}; `modelium keys ls` shows all")
    if len(named) > 1:
        raise InputError(f"several keys are named {key}; name one by its id: {', '.join(named)}")
    return named[0]
