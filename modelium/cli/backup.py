"""``modelium backup`` and ``modelium restore``."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from modelium.cli.options import ConfigFile, Json
from modelium.cli.output import show
from modelium.config.loading import load
from modelium.control import service_lock


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(backup)
    app.command()(restore)


def backup(
    file: Annotated[Path, typer.Argument(help="File to write; it must not exist.")],
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """Copy the store to FILE while Modelium runs. It has no secrets and no model files."""
    from modelium.store import backup as copies  # as the database's libraries take a while

    made = copies.write(load(config, os.environ).store_url(), file)
    text = f"{made.versions} versions of models are in {made.file} (tables {made.schema})"
    show(asdict(made), text, as_json=json_)


def restore(
    file: Annotated[Path, typer.Argument(help="What `modelium backup` wrote.")],
    config: ConfigFile = None,
    json_: Json = False,
) -> None:
    """Put a copy of the store back, and keep the present one beside it. Modelium must be stopped.

    The next start looks which of its models still run, and registers folders of the repository that
    the copy does not know. An empty database of PostgreSQL takes a copy of a SQLite store, too.
    """
    from modelium.store import backup as copies

    settings = load(config, os.environ)
    state = settings.orchestration.state
    with service_lock.hold(state):
        made, old = copies.restore(settings.store_url(), file)
    lines = [f"{made.versions} versions of models are in {made.file} again"]
    lines += [f"the store that was there is {old} now"] if old else []
    lines += [f"missing: {path} (restore it, or `modelium rm` the model)" for path in made.missing]
    show({**asdict(made), "old": str(old) if old else None}, "\n".join(lines), as_json=json_)
