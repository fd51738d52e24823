"""Options that several commands share, and the client that they configure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from modelium.cli.client import Client
from modelium.config.loading import load

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="Configuration file. Default: ./modelium.yaml or /etc/modelium/modelium.yaml.",
        envvar="MODELIUM_CONFIG",
    ),
]


def client(config: Path | None) -> Client:
    """Return a client of the service that the configuration names."""
    return Client(config=load(config, os.environ))


def hide_types_of_flags(command: Any, *, path: str) -> None:
    """Have the help show `--json` as a flag; Typer calls it `--json <bool>`."""
    # Getting the parameters adds --help to them.
    for parameter in command.get_params(typer.Context(command, info_name=path)):
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    for name, inner in getattr(command, "commands", {}).items():
        hide_types_of_flags(inner, path=f"{path} {name}")
