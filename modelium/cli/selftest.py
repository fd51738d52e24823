"""``modelium selftest``: what this machine's GPUs and runtimes really do."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from modelium.cli.options import ConfigFile, Json
from modelium.cli.output import FAILED, print_json
from modelium.config.loading import load
from modelium.control import service_lock
from modelium.errors import InputError
from modelium.models import RuntimeName

if TYPE_CHECKING:
    from modelium.selftest import SelfTestReport

MARKS = {"ok": "[green]✓[/]", "failed": "[red]✗[/]", "skipped": "[dim]–[/]"}


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("selftest")(selftest)


def selftest(
    config: ConfigFile = None,
    runtime: Annotated[
        list[RuntimeName] | None,
        typer.Option(help="Try this runtime only. Repeatable. Default: all that are enabled."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Also write the report as JSON, for a bug report."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Try the GPUs and each enabled runtime with a tiny model; takes up to ten minutes.

    It works in a temporary folder and on free ports. Stop Modelium first: what it loads and
    unloads meanwhile would be measured, too.
    """
    from modelium import selftest as checks

    logging.basicConfig(level=logging.ERROR, force=True)
    settings = load(config, os.environ)
    if output is not None and not output.absolute().parent.is_dir():
        raise InputError(f"{output.parent} is not a folder; name a file in one that exists")
    state = settings.orchestration.state
    if service_lock.is_held(state):
        raise InputError(f"Modelium is running on {state}; stop it with `modelium down` first")
    console = Console(stderr=as_json)
    with console.status("starting …") as status:
        work = checks.run(
            settings,
            only=runtime or (),
            say=lambda text: status.update(f"{text} …"),
            show=lambda check: console.print(
                f"{MARKS[check.outcome]} [bold]{check.name}[/]: {check.detail}",
                highlight=False,
            ),
        )
        report = asyncio.run(
            _until_stopped(work, on_stop=lambda: status.update("ending what was started …"))
        )
    if output is not None:
        output.write_text(report.model_dump_json(indent=1) + "\n")
        console.print(f"report: {output}", highlight=False)
    if as_json:
        print_json(report.model_dump(mode="json"))
    if report.failed:
        raise typer.Exit(FAILED)


async def _until_stopped(
    work: Coroutine[Any, Any, SelfTestReport], *, on_stop: Callable[[], None]
) -> SelfTestReport:
    """Do ``work``; a signal cancels it, and it ends what it started. Further ones change nothing.

    Raises:
        typer.Exit: it was stopped; the code is a shell's for the signal.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - inside a coroutine
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        if len(received) == 1:
            on_stop()
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    try:
        return await work
    except asyncio.CancelledError:
        raise typer.Exit(128 + received[0] if received else FAILED) from None
