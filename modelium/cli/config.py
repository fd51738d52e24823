"""``modelium config``: create, check and show the configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, NoReturn

import typer
import yaml

from modelium.cli.machine import look
from modelium.cli.options import ConfigFile, Json
from modelium.cli.output import WRONG_INPUT, print_json
from modelium.cli.starter import first_configuration
from modelium.config import Config, reference
from modelium.config.conflicts import metadata_names
from modelium.config.folders import problems as folder_problems
from modelium.config.loading import Effective, load_effective, load_serving
from modelium.config.sections.orchestration import Orchestration
from modelium.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Create, check and show the configuration.")

_HERE = Path(__file__).parents[1]
DEPLOY = (_HERE / "deploy", _HERE.parent / "deploy")
"""The files of deploy/: in a wheel, and in a checkout."""

File = Annotated[
    Path | None,
    typer.Argument(help="Configuration file. Default: the one that `modelium up` would use."),
]


@app.command()
def check(file: File = None, as_json: Json = False) -> None:
    """Report invalid fields, or that no runtime is enabled; exit code 2 if so."""
    try:
        effective = load_serving(file, os.environ)
    except ConfigError as exc:
        problems = str(exc).splitlines()
        if as_json:
            print_json({"ok": False, "problems": problems})
        else:
            count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}:"
            typer.echo(f"{count}\n{exc}", err=True)
        raise typer.Exit(WRONG_INPUT) from None
    source = str(effective.file) if effective.file else None
    # The file may be meant for another machine, so that these do not fail the check.
    warnings = [*folder_problems(effective.config), *metadata_names(effective.config)]
    if as_json:
        print_json({"ok": True, "file": source, "problems": [], "warnings": warnings})
        return
    typer.echo(f"{source or 'no file, the environment'}: ok")
    for warning in warnings:
        typer.echo(f"on this machine: {warning}", err=True)


@app.command()
def show(config: ConfigFile = None, as_json: Json = False) -> None:
    """Print the effective values and their sources, secrets hidden."""
    effective = _load(config)
    if as_json:
        print_json(reference.effective_data(effective))
    else:
        typer.echo(reference.effective_yaml(effective), nl=False)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the file, for editors."""
    typer.echo(reference.json_schema(), nl=False)


@app.command()
def init(
    file: Annotated[
        Path | None, typer.Argument(help="File to create. Default: standard output.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    models: Annotated[
        Path | None,
        typer.Option(help="Folder that all of Modelium's files are to lie in."),
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Write every field, with its meaning and value.")
    ] = False,
) -> None:
    """Print a configuration for this machine, with the runtimes that are installed here."""
    folders = Config().orchestration
    if models is not None:
        root = models.expanduser().absolute()
        folders = Orchestration(
            incoming_directory=root / "incoming", model_repository=root / "repository"
        )
    text = first_configuration(look(os.environ), folders)
    if all_:
        text = reference.starter(Config.model_validate(yaml.safe_load(text)))
    if file is None or str(file) == "-":
        typer.echo(text, nl=False)
        return
    try:
        # Readable by the owner only, because users will add tokens to it.
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
        with open(os.open(file, flags, 0o600), "w", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        _fail(f"{file} already exists; choose another name, or overwrite it with --force")
    except OSError as exc:
        _fail(f"cannot write {file}: {exc.strerror}")
    typer.echo(f"wrote {file}; start Modelium with `modelium up`")


@app.command()
def deploy(
    name: Annotated[
        str | None, typer.Argument(help="File to print. Default: list their names.")
    ] = None,
) -> None:
    """Print a file for deployment: systemd unit, Containerfile, alerts, dashboard."""
    folder = next(place for place in DEPLOY if place.is_dir())
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    if name is None:
        typer.echo("\n".join(names))
    elif name in names:
        typer.echo((folder / name).read_text(encoding="utf-8"), nl=False)
    else:
        _fail(f"there is no file {name}; choose one of {', '.join(names)}")


@app.command(hidden=True)
def docs() -> None:
    """Print the reference page docs/configuration.md."""
    typer.echo(reference.markdown(), nl=False)


def _load(path: Path | None) -> Effective:
    try:
        return load_effective(path, os.environ)
    except ConfigError as exc:
        _fail(str(exc))


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(WRONG_INPUT)
