"""``modelium up``: runs the service and says what happens, one line per event."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelium import __version__
from modelium.cli import events, logs
from modelium.cli.options import ConfigFile
from modelium.cli.shadows import shadows
from modelium.cli.tables import size
from modelium.config import Config
from modelium.config.loading import load_serving
from modelium.errors import ModeliumError
from modelium.models import Event

if TYPE_CHECKING:
    from modelium.app import Running
    from modelium.control.reload import ConfigSource


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(up)


def up(
    config: ConfigFile = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print all log lines, libraries' too.")
    ] = False,
) -> None:
    """Start Modelium and run it until Ctrl-C. Loaded models keep running afterwards.

    It prints one line per event; everything else is in modelium.log in the state directory.
    """
    logs.quieten()
    import uvloop

    from modelium.control.reload import ConfigSource  # with all stages: seconds, for each command

    if found := list(shadows()):
        raise ModeliumError("\n".join(found))
    effective = load_serving(config, os.environ)
    settings = effective.config
    log = logs.configure(
        settings.orchestration.state, level="info" if verbose else settings.logging.level
    )
    source = ConfigSource(read=lambda: load_serving(config, os.environ).config, file=effective.file)
    try:
        uvloop.run(_serve(settings, source, log))
    except asyncio.CancelledError:
        typer.echo("stopped", err=True)


async def _serve(settings: Config, source: ConfigSource, log: Path) -> None:
    from modelium.app import running

    _handle_signals(source)
    async with running(
        settings, source=source, on_event=_print, on_imports=logs.take_over
    ) as service:
        lines = await asyncio.to_thread(lambda: list(_summary(settings, source, log, service)))
        typer.echo("\n".join(lines))
        await asyncio.Event().wait()


def _handle_signals(source: ConfigSource) -> None:
    """Stop on SIGTERM and SIGINT; read the configuration again on SIGHUP."""
    loop, serving = asyncio.get_running_loop(), asyncio.current_task()
    assert serving is not None  # noqa: S101 - inside a coroutine
    # Service managers send SIGTERM. SIGINT is handled explicitly because a shell that starts
    # this process in the background makes it ignore SIGINT.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    terminal = sys.stderr.isatty()

    def on_hangup() -> None:
        if terminal and not os.isatty(sys.stderr.fileno()):
            serving.cancel()  # the terminal was closed
        else:
            source.wanted.set()

    loop.add_signal_handler(signal.SIGHUP, on_hangup)


def _summary(settings: Config, source: ConfigSource, log: Path, service: Running) -> Iterator[str]:
    """Yield what a person wants to know of a service that has started."""
    yield f"Modelium {__version__} is running with {source.file or 'the default configuration'}"
    for name, url in service.endpoints().items():
        yield f"  {name:<12} {url or 'off'}"
    states = (
        status.name.value if status.healthy else f"{status.name.value} (not ready: {status.detail})"
        for status in service.services.runtime_monitor.statuses()
    )
    yield f"  {'runtimes':<12} {', '.join(states)}"
    devices = (
        f"{events.device(device.label)} ({device.name or device.kind}, {size(device.total_bytes)})"
        for device in service.services.devices.snapshot()
    )
    yield f"  {'devices':<12} {', '.join(devices) or 'none'}"
    yield f"  {'repository':<12} {settings.orchestration.model_repository}"
    yield f"  {'log':<12} {log}"
    yield f"drop models into {settings.orchestration.incoming_directory}"


def _print(event: Event) -> None:
    """Print what happened; called on whatever thread stored it."""
    told = events.line(event)
    if told is not None:
        with suppress(OSError):  # whoever read the output has gone; the store has the event
            typer.echo(f"{time.strftime('%H:%M:%S', time.localtime(event.at))}  {told}")
