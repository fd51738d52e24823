"""``modelium rm``, ``rollback``, ``versions`` and ``trash``."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer
from rich.table import Table

from modelium.cli.options import ConfigFile, Json, client
from modelium.cli.output import show
from modelium.cli.waiting import order
from modelium.errors import InputError

Reference = Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="Model, or one version.")]

trash = typer.Typer(no_args_is_help=True, help="List and restore removed models.")


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("rm")(remove)
    app.command()(rollback)
    app.command()(versions)
    app.add_typer(trash, name="trash")


def remove(
    model: Reference,
    purge: Annotated[
        bool, typer.Option("--purge", help="Delete the files at once; nothing can be restored.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Also if it is pinned, always loaded, or named by an alias."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """Unload a model, forget it, and move its files to the trash."""
    name, version = _parsed(model)
    if sys.stdin.isatty() and not yes:
        what = "delete its files" if purge else "move its files to the trash"
        typer.confirm(f"Remove {model} and {what}?", abort=True)
    path = f"/models/{name}" if version is None else f"/models/{name}/versions/{version}"
    order(config, "DELETE", path, as_json=json_, purge=purge, force=force)


def rollback(model: Reference, config: ConfigFile = None, json_: Json = False) -> None:
    """Return to the version before the current one, or to VERSION."""
    name, version = _parsed(model)
    query: dict[str, Any] = {} if version is None else {"version": version}
    order(config, "POST", f"/models/{name}/rollback", as_json=json_, **query)


def versions(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """List the versions of a model: kept ones and removed ones."""
    rows = client(config).get(f"/models/{model}/versions")
    table = _table("version", "registered", "files")
    for row in rows:
        files = row["path"]
        if row["removed_at"]:
            files = f"removed {_moment(row['removed_at'])} by {row['removed_by']}"
        table.add_row(str(row["version"]), _moment(row["registered_at"]), files)
    show(rows, table, as_json=json_)


@trash.command("ls")
def list_trash(config: ConfigFile = None, json_: Json = False) -> None:
    """List what was removed and can be restored."""
    rows = client(config).get("/trash")
    table = _table("entry", "model", "version", "removed", "by")
    for row in rows:
        table.add_row(row["name"], row["model"], str(row["version"]), _moment(row["at"]), row["by"])
    show(rows, table, as_json=json_)


@trash.command()
def restore(
    name: Annotated[str, typer.Argument(help="Entry of `modelium trash ls`, or a model's name.")],
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """Ingest a removed version again, as the newest version of its model."""
    order(config, "POST", f"/trash/{name}/restore", as_json=json_)


def _parsed(reference: str) -> tuple[str, int | None]:
    """Split ``NAME[@VERSION]``.

    Raises:
        InputError: the version is not a number.
    """
    name, mark, version = reference.partition("@")
    if not mark:
        return name, None
    if not (version.isascii() and version.isdecimal() and len(version) < 10):
        raise InputError(f"{version!r} is not a version: write {name}@2 for version 2 of {name}")
    return name, int(version)


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table


def _moment(at: Any) -> str:
    return time.strftime("%F %T", time.localtime(at))
