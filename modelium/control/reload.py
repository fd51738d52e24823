"""Reloading the configuration while the service runs."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from modelium.config import Config
from modelium.config.changes import changes, merged
from modelium.control.signals import Signals
from modelium.errors import ConfigError, InputError
from modelium.models import Frozen
from modelium.stages.failures import forgive_reconfigured
from modelium.stages.services import Services
from modelium.stages.standing import apply_standings

logger = logging.getLogger(__name__)

POLL_S = 0.5
"""Between two looks at the file. It is looked at rather than watched: that also sees a rename over
it, a link whose target is replaced (Kubernetes' ``..data``), and file systems without events."""

SETTLE_S = 1.0
"""A file that was changed is read once it has not changed for this long: it may be half written."""

RETRY_S = 10.0
"""Between two tries to store what a new configuration says of models."""

Stamp = tuple[int, int, int, int]


def never_read() -> Config:
    """Read no file: this service was started without one."""
    raise InputError("this service was started with a configuration that cannot be read again")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigSource:
    """Where the configuration comes from."""

    read: Callable[[], Config] = never_read
    """Reads and validates it; blocks, and raises `ConfigError`."""
    file: Path | None = None
    """The file to watch; ``None``: none."""
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set to have it read at once, as SIGHUP does."""


class Reloaded(Frozen):
    """What a reload did."""

    changed: tuple[str, ...] = ()
    """Fields with their old and new values, which are in force."""
    restart: tuple[str, ...] = ()
    """Fields that keep their old value until a restart."""
    models: tuple[str, ...] = ()
    """Registered models whose team, priority or pin changed, or which may be tried again."""


class Reloader:
    """Puts a changed configuration in force, as a whole or not at all."""

    def __init__(self, *, services: Services, signals: Signals, source: ConfigSource) -> None:
        """``signals``: has the control loop act on the new rules at once."""
        self._services = services
        self._signals = signals
        self._source = source
        self._listeners: list[Callable[[Config], None]] = []
        self._lock = asyncio.Lock()
        self._problem = ""
        self._failed_at = 0.0
        self._restart: tuple[str, ...] = ()
        self._unstored = False
        self._untold = False
        self._changed: tuple[str, ...] = ()
        self._tried_at = 0.0

    def listen(self, listener: Callable[[Config], None]) -> None:
        """Have ``listener`` called with each new configuration, on the event loop."""
        self._listeners.append(listener)

    def notices(self) -> list[str]:
        """Return in which ways the file is not what is in force."""
        unstored = (
            [
                "the configuration is in force but for what it says of registered models: the "
                f"store could not be written; it is tried again every {RETRY_S:g} s"
            ]
            if self._unstored
            else []
        )
        if not self._problem:
            return [*unstored, *self._restart]
        at = time.strftime("%F %T", time.localtime(self._failed_at))
        first, *more = self._problem.splitlines()
        rest = f" (and {len(more)} more)" if more else ""
        return [
            f"the configuration of {at} is invalid, the one before stays in force: {first}{rest}",
            *unstored,
            *self._restart,
        ]

    async def reload(self) -> Reloaded:
        """Read the configuration and put in force what can be without a restart.

        Plans that are being made are made again, and requests do not notice.

        Raises:
            ConfigError: it is invalid; nothing was changed.
        """
        async with self._lock:
            try:
                wanted = await asyncio.to_thread(self._source.read)
            except ConfigError as exc:
                await self._refuse(str(exc))
                raise
            return await self._apply(wanted)

    async def run(self) -> None:
        """Reload when it is asked for and when the file has changed, until cancelled."""
        clock, wanted = self._services.clock, self._source.wanted
        seen = read = await self._stamp()
        changed_at = clock.monotonic()
        while True:
            waits = [
                asyncio.ensure_future(clock.sleep(POLL_S)),
                asyncio.ensure_future(wanted.wait()),
            ]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            found, now = await self._stamp(), clock.monotonic()
            if found != seen:
                seen, changed_at = found, now
            if wanted.is_set() or (seen != read and now - changed_at >= SETTLE_S):
                wanted.clear()
                read = seen
                await self._attempt(self.reload())
            elif self._untold and now - self._tried_at >= RETRY_S:
                await self._attempt(self._again())

    async def _again(self) -> None:
        """Store what an earlier reload could not."""
        async with self._lock:
            if self._untold:
                await self._settle()

    async def _attempt(self, what: Awaitable[object]) -> None:
        """Reload; a failure has been reported already."""
        try:
            await what
        except InputError as exc:
            logger.debug("the configuration was not reloaded: %s", exc)
        except Exception:
            logger.exception("reloading the configuration failed")

    async def _refuse(self, problem: str) -> None:
        self._failed_at = self._services.clock.time()
        if problem == self._problem:
            return
        self._problem = problem
        logger.error("the configuration is invalid, the one before it stays in force: %s", problem)
        await self._services.store.events.append("config.invalid", problem=problem)

    async def _apply(self, wanted: Config) -> Reloaded:
        services = self._services
        found = changes(services.config, wanted)
        live = tuple(str(change) for change in found if change.live)
        restart = tuple(str(change) for change in found if not change.live)
        self._untold = bool(self._untold or live or self._problem or restart != self._restart)
        self._problem, self._restart = "", restart
        if live:
            self._unstored, self._changed = True, (*self._changed, *live)
            services.configure(merged(services.config, wanted))
            for listener in self._listeners:
                listener(services.config)
        return await self._settle()

    async def _settle(self) -> Reloaded:
        """Store what the configuration in force says of models, and that it is in force."""
        services, models = self._services, list[str]()
        self._tried_at = services.clock.monotonic()
        if self._unstored:
            # This makes the plans stale that were made under the old rules.
            models = await apply_standings(services)
            models = sorted({*models, *await forgive_reconfigured(services)})
            self._signals.tick_wanted.set()
        changed, restart = self._changed, self._restart
        if self._untold or models:
            told = "; ".join([*changed, *restart]) or "unchanged"
            logger.info("configuration reloaded: %s", told)
            await services.store.events.append(
                "config.reloaded", changed=list(changed), restart=list(restart), models=models
            )
        self._untold = self._unstored = False
        self._changed = ()
        return Reloaded(changed=changed, restart=restart, models=tuple(models))

    async def _stamp(self) -> Stamp | None:
        """Return what changes with the file; ``None``: there is none."""
        file = self._source.file
        return None if file is None else await asyncio.to_thread(stamp, file)


def stamp(file: Path) -> Stamp | None:
    """Return what changes whenever ``file``, or what it links to, does; ``None``: it is gone."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
