"""Supervises engine processes: each one a session of its own that outlives us and is found again.

An engine's identity is the boot, its pid and its start time; a token in its environment finds
descendants that left its session or lost their parents. No sub-reaper is set, as that would
adopt the orphans of everything else in this process, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelium.errors import FailureKind, LoadFailed, Unavailable
from modelium.ports import Clock
from runtimes.process import proc, shared_memory
from runtimes.process.log import EngineLog

TOKEN_VARIABLE = "MODELIUM_ENGINE"  # noqa: S105 - a name, not a secret
POLL_S = 0.1
KILL_DEADLINE_S = 15.0
"""SIGKILL works at once, but a process inside the GPU driver dies when the driver lets it."""
TIDY_S = 2.0
"""What resource trackers get for removing semaphores and shared memory: milliseconds do."""
TRACKER = b"multiprocessing.resource_tracker"

INHERITED = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"),
    *("LD_LIBRARY_PATH", "XDG_CACHE_HOME", "CUDA_HOME", "CUDA_PATH", "SSL_CERT_FILE"),
    *("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"),
)
"""What engines get of our environment; the rest may hold secrets or another Python's settings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """How an engine is started."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Beside what is `INHERITED`."""
    directory: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """The identity of one started engine, as it is kept in a deployment's handle."""

    model: str
    pid: int
    """Leader of its session; 0: it was about to be started when its record was written."""
    started: int
    boot: str
    token: str

    def note(self) -> dict[str, Any]:
        """JSON that `from_note` reads."""
        return {
            "pid": self.pid,
            "started": self.started,
            "boot": self.boot,
            "token": self.token,
        }

    @classmethod
    def from_note(cls, model: str, note: Mapping[str, Any]) -> Engine | None:
        """Read an identity back; None where ``note`` holds none."""
        try:
            return cls(
                model=model,
                pid=int(note["pid"]),
                started=int(note["started"]),
                boot=str(note["boot"]),
                token=str(note["token"]),
            )
        except (KeyError, TypeError, ValueError):
            return None


class Supervisor:
    """Starts, watches and ends engines; one record and one log per model in ``directory``."""

    def __init__(self, *, directory: Path, clock: Clock) -> None:
        """``directory`` is made on the first start."""
        self._directory = directory
        self._clock = clock
        self._boot = proc.boot_id()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._seen: dict[str, dict[int, int]] = {}
        self._logs: dict[str, EngineLog] = {}
        self._shared: dict[str, set[Path]] = {}

    def log(self, model: str) -> EngineLog:
        """The log of ``model``'s engine."""
        if model not in self._logs:
            self._logs[model] = EngineLog(path=self._directory / f"{model}.log")
        return self._logs[model]

    def start(self, model: str, command: Command, notes: Mapping[str, Any]) -> Engine:
        """Start an engine; not a coroutine, so that no cancellation can lose a started process.

        Args:
            model: whose engine it is.
            command: what to run.
            notes: what `records` tells of it after a restart, beside its identity.

        Raises:
            LoadFailed: the command cannot be run.
        """
        token = secrets.token_hex(16)
        coming = Engine(model=model, pid=0, started=0, boot=self._boot, token=token)
        output = self.log(model).open()
        # Recorded before it exists: a crash in between leaves a token to find it by.
        self._record(coming, notes)
        try:
            child = subprocess.Popen(
                command.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(command.environment) | {TOKEN_VARIABLE: token},
                cwd=command.directory or self._directory,
                start_new_session=True,
            )
        except OSError as exc:
            self.forget(model)
            raise LoadFailed(
                f"cannot start {command.argv[0]}: {exc.strerror}; install it or correct "
                "`executable` in the configuration",
                kind=FailureKind.ENVIRONMENT,
            ) from exc
        finally:
            os.close(output)
        self._children[token] = child
        # An unreaped child keeps its entry even if it died at once.
        started = proc.entry(child.pid)
        engine = Engine(
            model=model,
            pid=child.pid,
            started=started.started if started else 0,
            boot=self._boot,
            token=token,
        )
        self._record(engine, notes)
        return engine

    def alive(self, engine: Engine) -> bool:
        """Whether its first process lives; a zombie does not."""
        self._reap(engine)
        return self._leader(engine) is not None

    def exit_code(self, engine: Engine) -> int | None:
        """Exit status (negative: the signal), where it was our child and has ended."""
        child = self._children.get(engine.token)
        return child.poll() if child else None

    def members(self, engine: Engine, *, thorough: bool = False) -> tuple[int, ...]:
        """The live processes of ``engine``; blocks for some milliseconds.

        ``thorough`` also reads every process's environment for the token.
        """
        if engine.boot != self._boot:
            return ()
        table = proc.snapshot()
        seen = self._seen.setdefault(engine.token, {})
        roots = {
            pid for pid, started in seen.items() if pid in table and table[pid].started == started
        }
        if self._leader(engine):
            roots.add(engine.pid)
        leader = table.get(engine.pid)
        if engine.pid and (leader is None or leader.started == engine.started):
            roots |= {p.pid for p in table.values() if p.session == engine.pid}
        if thorough:
            roots |= {pid for pid in table if proc.carries(pid, TOKEN_VARIABLE, engine.token)}
        found = proc.descendants(table, roots)
        self._seen[engine.token] = {pid: table[pid].started for pid in found}
        return tuple(sorted(pid for pid in found if table[pid].lives))

    def note_shared_memory(self, engine: Engine) -> None:
        """Remember what it has mapped now, for clearing up should it be killed later."""
        self._shared[engine.token] = shared_memory.regions(self.members(engine))

    async def stop(self, engine: Engine, *, grace_s: float) -> None:
        """End all its processes: SIGTERM to the first, after ``grace_s`` SIGKILL to all.

        Raises:
            Unavailable: some do not die, which only a kernel or driver can cause.
        """
        members = self.members(engine, thorough=True)
        shared = self._shared.pop(engine.token, set()) | shared_memory.regions(members)
        if grace_s > 0 and self._leader(engine):
            self._signal(engine.pid, signal.SIGTERM)
            members = await self._gone(engine, within_s=grace_s)
        deadline = self._clock.monotonic() + KILL_DEADLINE_S
        tidy_until = self._clock.monotonic() + TIDY_S
        while members:
            if self._clock.monotonic() > deadline:
                raise Unavailable(
                    f"processes {list(members)} of {engine.model} survive SIGKILL: "
                    "look for a hung driver or file system (state D), it may need a reboot"
                )
            # Python's trackers remove what the dead shared and end by themselves.
            spared = tidy_until > self._clock.monotonic()
            for pid in members:
                if not (spared and TRACKER in proc.words(pid)):
                    self._signal(pid, signal.SIGKILL)
            await self._clock.sleep(POLL_S)
            self._reap(engine)
            members = self.members(engine, thorough=True)
        self._reap(engine)
        shared_memory.clear(shared)
        self._children.pop(engine.token, None)
        self._seen.pop(engine.token, None)
        self.forget(engine.model, token=engine.token)

    def records(self) -> dict[str, dict[str, Any]]:
        """Model → identity and notes of every engine that was started and not stopped."""
        found = {}
        for path in sorted(self._directory.glob("*.json")):
            try:
                found[path.stem] = json.loads(path.read_text())
            except (OSError, ValueError):  # cut off by a full disk: nothing to know from it
                continue
        return found

    def forget(self, model: str, *, token: str | None = None) -> None:
        """Drop the record of ``model`` (only that of the engine with ``token``, if given)."""
        path = self._directory / f"{model}.json"
        if token is None or self.records().get(model, {}).get("token") == token:
            path.unlink(missing_ok=True)

    async def _gone(self, engine: Engine, *, within_s: float) -> tuple[int, ...]:
        deadline = self._clock.monotonic() + within_s
        while True:
            self._reap(engine)
            members = self.members(engine)
            if not members or self._clock.monotonic() >= deadline:
                return self.members(engine, thorough=True)
            await self._clock.sleep(POLL_S)

    def _leader(self, engine: Engine) -> proc.ProcessEntry | None:
        if not engine.pid or engine.boot != self._boot:
            return None
        entry = proc.entry(engine.pid)
        return entry if entry and entry.lives and entry.started == engine.started else None

    def _reap(self, engine: Engine) -> None:
        """Collect what ended: our child, and orphans where this process is the one they fall to."""
        child = self._children.get(engine.token)
        if child:
            child.poll()
        for pid in self._seen.get(engine.token, ()):
            entry = proc.entry(pid)
            if entry and entry.state == "Z" and entry.parent == os.getpid() and pid != engine.pid:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def _signal(self, pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def _record(self, engine: Engine, notes: Mapping[str, Any]) -> None:
        path = self._directory / f"{engine.model}.json"
        fresh = path.with_suffix(".new")
        fresh.touch(mode=0o600)  # it holds the engine's key
        fresh.write_text(json.dumps({**notes, **engine.note()}))
        fresh.replace(path)


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in INHERITED}
    return kept | dict(extra)
