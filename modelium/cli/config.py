"""``modelium config``: write, check and show the configuration.

Exit codes: 0 fine, 2 the input is wrong.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from modelium.config import reference
from modelium.config.loading import Effective, load_effective
from modelium.errors import ConfigError

BAD_INPUT = 2

app = typer.Typer(no_args_is_help=True, help="Write, check and show the configuration.")

File = Annotated[
    Path | None,
    typer.Argument(help="Configuration file. Default: the one that Modelium would take."),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Configuration file, instead of the usual places."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def check(file: File = None, as_json: Json = False) -> None:
    """Name each wrong field with what is allowed."""
    try:
        effective = load_effective(file, os.environ)
    except ConfigError as exc:
        problems = str(exc).splitlines()
        if as_json:
            typer.echo(json.dumps({"ok": False, "problems": problems}, ensure_ascii=False))
        else:
            typer.echo(f"{len(problems)} wrong:", err=True)
            typer.echo(str(exc), err=True)
        raise typer.Exit(BAD_INPUT) from None
    source = str(effective.file) if effective.file else None
    if as_json:
        typer.echo(json.dumps({"ok": True, "file": source, "problems": []}, ensure_ascii=False))
    else:
        typer.echo(f"{source or 'no file, the defaults'}: ok")


@app.command()
def show(config: ConfigFile = None, as_json: Json = False) -> None:
    """Print the effective values and where they come from; secrets are hidden."""
    effective = _load(config)
    if as_json:
        data = reference.effective_data(effective)
        typer.echo(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        typer.echo(reference.effective_yaml(effective), nl=False)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the file, for editors."""
    typer.echo(reference.json_schema(), nl=False)


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="Where to write it; - prints it.")] = Path(
        "modelium.yaml"
    ),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a starter file with every field, its meaning and its default."""
    text = reference.starter()
    if str(file) == "-":
        typer.echo(text, nl=False)
        return
    try:
        # Owner only: tokens are going to be put into it.
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
        with open(os.open(file, flags, 0o600), "w", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        _fail(f"{file} exists; give another name, or --force to overwrite it")
    except OSError as exc:
        _fail(f"{file} cannot be written: {exc.strerror}")
    typer.echo(f"wrote {file}; check it with `modelium config check {file}`")


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
    raise typer.Exit(BAD_INPUT)
