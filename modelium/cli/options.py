"""Options and the client that commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from modelium.cli.client import Client
from modelium.config.loading import load

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Configuration file.", envvar="MODELIUM_CONFIG"),
]


def client(config: Path | None) -> Client:
    """Return the client of the service that ``config`` names."""
    return Client(config=load(config, os.environ))
