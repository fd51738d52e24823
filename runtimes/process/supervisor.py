"""Supervises engine processes: each runs in its own session and outlives Modelium.

An engine is identified by the boot, its pid and its start time. A token in its environment finds
descendants that left the session or lost their parents. Modelium does not make itself a
sub-reaper, as it would then adopt the orphans of everything else in this process.
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

from modelium.errors import FailureKind, LoadFailed, ModeliumError, Unavailable, is_passing
from modelium.ports import Clock
from runtimes.process import environment, proc, shared_memory
from runtimes.process.engine_log import EngineLog
from runtimes.process.sandbox import Sandbox

TOKEN_VARIABLE = "MODELIUM_ENGINE"  # noqa: S105 - a name, not a secret
POLL_S = 0.1
KILL_DEADLINE_S = 15.0
"""SIGKILL acts at once, except on a process inside the GPU driver: the driver has to return."""
TRACKER_S = 2.0
"""How long resource trackers may take to remove semaphores and shared memory; milliseconds in
practice."""
TRACKER = b"multiprocessing.resource_tracker"


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """How to start an engine."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Set in addition to what `runtimes.process.environment.inherited` returns."""
    directory: Path | None = None
    writable: tuple[Path, ...] = ()
    """What it may change where it is confined, beside what every engine may."""
    connects: bool = True
    """Whether it may open TCP connections where it is confined."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineProcess:
    """The identity of one started engine, as stored in a deployment's handle."""

    model: str
    pid: int
    """Leader of its session; 0 in the record that is written before the process exists."""
    started: int
    boot: str
    token: str

    def to_record(self) -> dict[str, Any]:
        """Return the JSON object that `from_record` reads."""
        return {
            "pid": self.pid,
            "started": self.started,
            "boot": self.boot,
            "token": self.token,
        }

    @classmethod
    def from_record(cls, model: str, record: Mapping[str, Any]) -> EngineProcess | None:
        """Read an identity back; None if ``record`` does not hold one."""
        try:
            return cls(
                model=model,
                pid=int(record["pid"]),
                started=int(record["started"]),
                boot=str(record["boot"]),
                token=str(record["token"]),
            )
        except (KeyError, TypeError, ValueError):
            return None


class Supervisor:
    """Starts, watches and stops engines, with one record and one log per model in ``directory``."""

    def __init__(self, *, directory: Path, clock: Clock, sandbox: Sandbox | None = None) -> None:
        """The first start creates ``directory``. ``sandbox`` confines the engines."""
        self._sandbox = sandbox
        self._directory = directory
        self._clock = clock
        self._boot = proc.boot_id()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._seen: dict[str, dict[int, int]] = {}
        self._logs: dict[str, EngineLog] = {}
        self._shared: dict[str, set[Path]] = {}

    def log(self, model: str) -> EngineLog:
        """Return the log of ``model``'s engine."""
        if model not in self._logs:
            self._logs[model] = EngineLog(path=self._directory / f"{model}.log")
        return self._logs[model]

    def start(self, model: str, command: Command, details: Mapping[str, Any]) -> EngineProcess:
        """Start an engine.

        This is not a coroutine: a cancellation in between could lose the started process.

        Args:
            model: the model that the engine serves.
            command: what to run.
            details: what `records` returns besides its identity, also after a restart.

        Raises:
            LoadFailed: the command cannot be run.
            Unavailable: the machine is short of what a start needs.
        """
        token = secrets.token_hex(16)
        planned = EngineProcess(model=model, pid=0, started=0, boot=self._boot, token=token)
        output = self.log(model).open()
        try:
            # Written before the process exists: after a crash in between, the token still finds it.
            self._write_record(planned, details)
            argv, variables, directory = self._confined(model, command)
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=variables | {TOKEN_VARIABLE: token},
                cwd=command.directory or directory,
                start_new_session=True,
            )
        except OSError as exc:
            self.delete_record(model)
            if is_passing(exc):
                raise Unavailable(
                    f"cannot start {command.argv[0]}: {exc.strerror}; it is tried again"
                ) from exc
            raise LoadFailed(
                f"cannot start {command.argv[0]}: {exc.strerror}; install it or correct "
                "`executable` in the configuration",
                kind=FailureKind.ENVIRONMENT,
            ) from exc
        except ModeliumError:
            self.delete_record(model)
            raise
        finally:
            os.close(output)
        self._children[token] = child
        # Even if it has died already: a child keeps its entry until it is reaped.
        started = proc.entry(child.pid)
        engine = EngineProcess(
            model=model,
            pid=child.pid,
            started=started.started if started else 0,
            boot=self._boot,
            token=token,
        )
        self._write_record(engine, details)
        return engine

    def alive(self, engine: EngineProcess) -> bool:
        """Whether the leader of ``engine`` is alive; a zombie is not."""
        self._reap(engine)
        return self._leader(engine) is not None

    def exit_code(self, engine: EngineProcess) -> int | None:
        """Return its exit status (negative: a signal); None while it runs, or if it is no child."""
        child = self._children.get(engine.token)
        return child.poll() if child else None

    def members(self, engine: EngineProcess, *, thorough: bool = False) -> tuple[int, ...]:
        """Return the pids of ``engine`` that are alive. Blocks for some milliseconds.

        ``thorough`` also searches the environment of every process for the token.
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
            roots |= {pid for pid in table if proc.has_variable(pid, TOKEN_VARIABLE, engine.token)}
        found = proc.descendants(table, roots)
        self._seen[engine.token] = {pid: table[pid].started for pid in found}
        return tuple(sorted(pid for pid in found if table[pid].alive))

    def remember_shared_memory(self, engine: EngineProcess) -> None:
        """Remember which shared memory it has mapped, to remove that if it is killed later."""
        self._shared[engine.token] = shared_memory.regions(self.members(engine))

    async def stop(self, engine: EngineProcess, *, grace_s: float) -> None:
        """Stop ``engine``: SIGTERM to its leader, after ``grace_s`` SIGKILL to all its processes.

        Raises:
            Unavailable: some survive SIGKILL, which only the kernel or a driver can cause.
        """
        members = self.members(engine, thorough=True)
        shared = self._shared.pop(engine.token, set()) | shared_memory.regions(members)
        if grace_s > 0 and self._leader(engine):
            self._signal(engine.pid, signal.SIGTERM)
            members = await self._wait_until_ended(engine, within_s=grace_s)
        deadline = self._clock.monotonic() + KILL_DEADLINE_S
        trackers_until = self._clock.monotonic() + TRACKER_S
        while members:
            if self._clock.monotonic() > deadline:
                raise Unavailable(
                    f"processes {list(members)} of {engine.model} survive SIGKILL: "
                    "check for a hung driver or file system (state D); a reboot may be needed"
                )
            # Python's resource trackers remove what the dead processes shared, then exit.
            spare_trackers = trackers_until > self._clock.monotonic()
            for pid in members:
                if not (spare_trackers and TRACKER in proc.command_line(pid)):
                    self._signal(pid, signal.SIGKILL)
            await self._clock.sleep(POLL_S)
            members = self.members(engine, thorough=True)
        self._reap(engine)
        shared_memory.remove_unused(shared)
        self._children.pop(engine.token, None)
        self._seen.pop(engine.token, None)
        self.delete_record(engine.model, token=engine.token)

    def records(self) -> dict[str, dict[str, Any]]:
        """Return, by model, identity and details of every engine that has not been stopped."""
        found = {}
        for path in sorted(self._directory.glob("*.json")):
            try:
                found[path.stem] = json.loads(path.read_text())
            except (OSError, ValueError):  # truncated by a full disk
                continue
        return found

    def delete_record(self, model: str, *, token: str | None = None) -> None:
        """Delete the record of ``model``; with ``token``, only if it is that engine's."""
        path = self._directory / f"{model}.json"
        if token is None or self.records().get(model, {}).get("token") == token:
            path.unlink(missing_ok=True)

    def _confined(
        self, model: str, command: Command
    ) -> tuple[tuple[str, ...], dict[str, str], Path]:
        """Return the command line, environment and directory that confine the engine."""
        variables = _environment(command)
        if self._sandbox is None:
            return command.argv, variables, self._directory
        argv, variables, work = self._sandbox.wrapped(
            command.argv,
            variables,
            work=self._directory / "work" / model,
            writable=command.writable,
            connects=command.connects,
        )
        return argv, variables, work or self._directory

    async def _wait_until_ended(self, engine: EngineProcess, *, within_s: float) -> tuple[int, ...]:
        deadline = self._clock.monotonic() + within_s
        while True:
            members = self.members(engine)
            if not members or self._clock.monotonic() >= deadline:
                return self.members(engine, thorough=True)
            await self._clock.sleep(POLL_S)

    def _leader(self, engine: EngineProcess) -> proc.ProcessEntry | None:
        if not engine.pid or engine.boot != self._boot:
            return None
        entry = proc.entry(engine.pid)
        return entry if entry and entry.alive and entry.started == engine.started else None

    def _reap(self, engine: EngineProcess) -> None:
        """Reap our child, and orphans of its that the kernel gave to this process."""
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

    def _write_record(self, engine: EngineProcess, details: Mapping[str, Any]) -> None:
        path = self._directory / f"{engine.model}.json"
        fresh = path.with_suffix(".new")
        fresh.touch(mode=0o600)  # it contains the engine's API key
        fresh.write_text(json.dumps({**details, **engine.to_record()}))
        fresh.replace(path)


def _environment(command: Command) -> dict[str, str]:
    found = environment.inherited(os.environ) | dict(command.environment)
    return found | {"PATH": environment.with_tools(found.get("PATH", ""), command.argv[0])}
