"""Identities and records of engines, and what of them the process table tells."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelium.errors import FailureKind, LoadFailed, Unavailable
from runtimes.process import environment, proc
from runtimes.process import supervisor as supervisor_module
from runtimes.process.supervisor import TOKEN_VARIABLE, Command, EngineProcess, Supervisor
from tests.runtimes.clock import FakeClock
from tests.runtimes.conditions import until

RECORD = {"pid": 7, "started": 8, "boot": "b", "token": "t"}
SLEEP = Command(argv=("sleep", "600"))


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(directory=tmp_path, clock=FakeClock())
    yield supervisor
    for model, record in supervisor.records().items():
        if engine := EngineProcess.from_record(model, record):
            await supervisor.stop(engine, grace_s=0)


def test_an_identity_is_read_back_as_it_was_written() -> None:
    engine = EngineProcess(model="m", pid=7, started=8, boot="b", token="t")
    assert engine.to_record() == RECORD
    assert EngineProcess.from_record("m", RECORD | {"port": 1}) == engine
    assert EngineProcess.from_record("m", RECORD | {"pid": "7", "started": "8"}) == engine


@pytest.mark.parametrize(
    "record",
    [
        {},
        *({name: value for name, value in RECORD.items() if name != gone} for gone in RECORD),
        RECORD | {"pid": "x"},
        RECORD | {"started": None},
    ],
)
def test_what_holds_no_identity_is_none(record: dict[str, object]) -> None:
    assert EngineProcess.from_record("m", record) is None


def test_a_start_is_recorded_with_its_details(supervisor: Supervisor, tmp_path: Path) -> None:
    engine = supervisor.start("m", SLEEP, {"port": 1, "pid": "not this"})
    assert engine.model == "m"
    assert engine.boot == proc.boot_id()
    assert engine.started == proc.alive_since(engine.pid)
    assert len(engine.token) == 32
    assert supervisor.records() == {"m": {"port": 1, **engine.to_record()}}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.json", "m.log"]
    assert proc.has_variable(engine.pid, TOKEN_VARIABLE, engine.token)
    assert os.getsid(engine.pid) == engine.pid
    assert supervisor.alive(engine)
    assert supervisor.exit_code(engine) is None
    assert supervisor.members(engine) == (engine.pid,)


async def test_engines_say_what_they_say_in_their_log(supervisor: Supervisor) -> None:
    code = "import os, sys; print(input.__name__, os.getcwd(), os.environ['A']); "
    code += "print(os.path.samefile('/dev/stdin', '/dev/null'), file=sys.stderr)"
    command = Command(argv=(sys.executable, "-uc", code), environment={"A": "1"})
    engine = supervisor.start("m", command, {})
    await until(lambda: not supervisor.alive(engine))
    assert supervisor.exit_code(engine) == 0
    folder = supervisor.log("m").path.parent
    assert supervisor.log("m").tail(9) == [f"input {folder} 1", "True"]
    assert supervisor.log("m") is supervisor.log("m")


async def test_a_directory_of_the_command_is_its_own(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    command = Command(argv=("sh", "-c", "pwd; exit 3"), directory=tmp_path / "own")
    engine = supervisor.start("m", command, {})
    await until(lambda: not supervisor.alive(engine))
    assert supervisor.log("m").tail(1) == [f"{tmp_path}/own"]
    assert supervisor.exit_code(engine) == 3


def test_no_descriptor_stays_open_and_a_failed_start_leaves_no_record(
    supervisor: Supervisor,
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LoadFailed) as failure:
        supervisor.start("m", Command(argv=("/nonexistent/vllm", "serve")), {})
    assert str(failure.value) == (
        f"cannot start /nonexistent/vllm: {os.strerror(2)}; install it or correct `executable` in "
        "the configuration"
    )
    assert failure.value.kind == FailureKind.ENVIRONMENT
    supervisor.start("m", SLEEP, {})
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_start_for_which_the_machine_is_short_of_something_is_tried_again(
    supervisor: Supervisor,
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, limit[1]))  # enough for the log
    try:
        with pytest.raises(Unavailable, match="Too many open files; it is tried again"):
            supervisor.start("m", SLEEP, {})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert len(os.listdir("/proc/self/fd")) == before
    assert supervisor.records() == {}


def test_an_engine_is_recorded_before_it_exists(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: object, **given: Any) -> None:
        note = json.loads((tmp_path / "m.json").read_text())
        token = given["env"][TOKEN_VARIABLE]
        identity = {"pid": 0, "started": 0, "boot": proc.boot_id(), "token": token}
        assert note == {"port": 1, **identity}
        assert not (tmp_path / "m.new").exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(subprocess, "Popen", cut_off)
        supervisor.start("m", SLEEP, {"port": 1})
    assert supervisor.records().keys() == {"m"}


def test_engines_find_the_tools_of_their_own_environment(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "sleeper"
    link.symlink_to("/bin/sleep")
    engine = supervisor.start("m", Command(argv=(str(link), "600")), {})
    path = environment.with_tools(os.environ["PATH"], str(link))
    assert path.startswith(f"{tmp_path}:")
    assert proc.variables(engine.pid, ["PATH"]) == {"PATH": path}
    monkeypatch.delenv("PATH")
    other = supervisor.start("n", Command(argv=(str(link), "600")), {})
    assert proc.variables(other.pid, ["PATH"])["PATH"].split(":")[0] == str(tmp_path)


def test_records_that_cannot_be_read_are_passed_over(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    (tmp_path / "a.json").write_text('{"pid": ')
    (tmp_path / "b.json").mkdir()
    (tmp_path / "c.json").write_text(json.dumps({"token": "t"}))
    (tmp_path / "d.new").write_text("{}")
    assert supervisor.records() == {"c": {"token": "t"}}


def test_a_record_is_deleted_by_the_engine_that_wrote_it(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    record = tmp_path / "m.json"
    record.write_text(json.dumps({"token": "t"}))
    supervisor.delete_record("m", token="another")
    supervisor.delete_record("another", token="t")
    assert record.exists()
    supervisor.delete_record("m", token="t")
    assert not record.exists()
    supervisor.delete_record("m", token="t")
    supervisor.delete_record("m")
    record.write_text("cut off")
    supervisor.delete_record("m", token="t")
    assert record.exists()
    supervisor.delete_record("m")
    assert not record.exists()


async def test_only_the_very_process_is_alive(supervisor: Supervisor) -> None:
    engine = supervisor.start("m", SLEEP, {})
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)  # noqa: ASYNC220
    try:
        for stranger in (
            replace(engine, started=engine.started + 1),
            replace(engine, boot="another"),
            replace(engine, pid=0),
            replace(engine, pid=os.getpid()),  # `other` may have begun in the same tick
        ):
            assert not supervisor.alive(stranger)
        assert supervisor.alive(replace(engine, token="another"))
        assert supervisor.exit_code(replace(engine, token="another")) is None
        elsewhere = replace(engine, boot="another")
        assert supervisor.members(elsewhere, thorough=True) == ()
        reused = replace(engine, pid=other.pid, started=1, token="another")
        assert supervisor.members(reused, thorough=True) == ()
        await supervisor.stop(reused, grace_s=1)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


async def test_a_pid_of_an_earlier_member_that_was_reused_is_none_of_it(
    supervisor: Supervisor,
) -> None:
    engine = supervisor.start("m", SLEEP, {})
    assert supervisor.members(engine) == (engine.pid,)
    supervisor._seen[engine.token] |= {os.getpid(): 1}
    assert supervisor.members(engine) == (engine.pid,)


async def test_orphans_of_the_session_are_members_while_the_leader_is_no_other(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    code = "(sleep 600 & echo $! > pid); exec sleep 600"
    engine = supervisor.start("m", Command(argv=("sh", "-c", code)), {})
    written = tmp_path / "pid"
    await until(lambda: written.exists() and written.read_text())
    child = int(written.read_text())
    later = Supervisor(directory=tmp_path, clock=FakeClock())
    reused = replace(engine, started=engine.started - 1)
    assert later.members(reused) == ()
    assert later.members(engine) == tuple(sorted((engine.pid, child)))
    os.kill(engine.pid, signal.SIGKILL)
    await until(lambda: not proc.alive(engine.pid))
    anew = Supervisor(directory=tmp_path, clock=FakeClock())
    assert anew.members(engine) == (child,), "beside the zombie"
    assert not supervisor.alive(engine)
    assert proc.entry(engine.pid) is None
    assert Supervisor(directory=tmp_path, clock=FakeClock()).members(engine) == (child,)


async def test_a_member_that_left_the_session_is_remembered(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    code = "setsid sh -c 'echo $$ > pid; exec sleep 600' & exec sleep 600"
    engine = supervisor.start("m", Command(argv=("sh", "-c", code)), {})
    written = tmp_path / "pid"
    await until(lambda: written.exists() and written.read_text())
    child = int(written.read_text())
    assert supervisor.members(engine) == tuple(sorted((engine.pid, child)))
    os.kill(engine.pid, signal.SIGKILL)
    await until(lambda: not supervisor.alive(engine))
    assert supervisor.members(engine) == (child,), "it is nobody's child now"
    later = Supervisor(directory=tmp_path, clock=FakeClock())
    assert later.members(engine) == ()
    assert later.members(engine, thorough=True) == (child,)
    assert later.members(replace(engine, token="another"), thorough=True) == ()
    await Supervisor(directory=tmp_path, clock=FakeClock()).stop(engine, grace_s=60)
    assert not proc.alive(child)


Sent = list[tuple[float, int, int]]
"""Fake seconds, pid and number of the signals that were sent."""


@pytest.fixture
def clock(supervisor: Supervisor) -> FakeClock:
    clock = FakeClock()
    supervisor._clock = clock
    return clock


@pytest.fixture
def sent(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Sent:
    signals: Sent = []
    kill = os.kill

    def noted(pid: int, number: int) -> None:
        signals.append((round(clock.now - 1000, 3), pid, number))
        kill(pid, number)

    monkeypatch.setattr(os, "kill", noted)
    return signals


DEAF = Command(argv=("sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 600; done"))


@pytest.mark.parametrize("grace_s", [0.0, 0.1, 0.5])
async def test_an_engine_has_its_grace_and_no_more(
    supervisor: Supervisor, sent: Sent, grace_s: float
) -> None:
    engine = supervisor.start("m", DEAF, {})
    await until(lambda: supervisor.log("m").new_lines() == ["deaf"])
    await supervisor.stop(engine, grace_s=grace_s)
    asked = [(0, engine.pid, signal.SIGTERM)] if grace_s else []
    assert sent[: len(asked)] == asked
    kills = sent[len(asked) :]
    assert kills[0] == (grace_s, engine.pid, signal.SIGKILL)
    assert {number for _, _, number in kills} == {signal.SIGKILL}
    assert proc.entry(engine.pid) is None
    assert supervisor.records() == {}
    assert supervisor.exit_code(engine) is None
    assert supervisor._seen == {}


async def test_an_engine_that_ends_by_itself_is_waited_for_no_longer(
    supervisor: Supervisor, sent: Sent, clock: FakeClock
) -> None:
    engine = supervisor.start("m", SLEEP, {})
    await supervisor.stop(engine, grace_s=10_000)
    assert sent == [(0, engine.pid, signal.SIGTERM)]
    assert clock.now < 11_000
    assert proc.entry(engine.pid) is None


async def test_an_engine_that_has_ended_gets_no_signal(supervisor: Supervisor, sent: Sent) -> None:
    engine = supervisor.start("m", Command(argv=("true",)), {})
    await until(lambda: not supervisor.alive(engine))
    await supervisor.stop(engine, grace_s=60)
    assert sent == []
    assert supervisor.records() == {}


async def test_the_engine_that_was_started_in_its_place_keeps_its_record(
    supervisor: Supervisor,
) -> None:
    first = supervisor.start("m", SLEEP, {})
    second = supervisor.start("m", SLEEP, {})
    await supervisor.stop(first, grace_s=0)
    assert supervisor.records() == {"m": second.to_record()}
    assert supervisor.alive(second)


async def test_resource_trackers_have_two_seconds_to_remove_what_was_shared(
    supervisor: Supervisor, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "POLL_S", 0.125)
    tracker = "exec -a multiprocessing.resource_tracker sleep 600"
    code = f"({tracker}) & echo $!; exec sleep 600"
    engine = supervisor.start("m", Command(argv=("bash", "-c", code)), {})
    lines: list[str] = []
    await until(lambda: lines.extend(supervisor.log("m").new_lines()) or lines)
    child = int(lines[0])
    await until(lambda: b"resource_tracker\0" in proc.command_line(child)[:40])
    await supervisor.stop(engine, grace_s=0)
    first = [next(signal for signal in sent if signal[1] == pid) for pid in (engine.pid, child)]
    assert first == [(0, engine.pid, signal.SIGKILL), (2.0, child, signal.SIGKILL)]


@pytest.fixture
def heir() -> Iterator[None]:
    """Orphans of what this process has started become its children, as they do of a process 1."""
    libc = ctypes.CDLL(None)
    libc.prctl(36, 1, 0, 0, 0)
    yield
    libc.prctl(36, 0, 0, 0, 0)


@pytest.mark.usefixtures("heir")
async def test_orphans_that_the_kernel_gave_to_this_process_are_reaped(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    code = "(setsid sleep 600 & echo $! > pid) ; exec sleep 600"
    engine = supervisor.start("m", Command(argv=("sh", "-c", code)), {})
    written = tmp_path / "pid"
    await until(lambda: written.exists() and written.read_text())
    child = int(written.read_text())
    await until(lambda: child in supervisor.members(engine, thorough=True))
    found = proc.entry(child)
    assert found is not None and found.parent == os.getpid()
    os.kill(child, signal.SIGKILL)
    await until(lambda: not proc.alive(child))
    assert supervisor.alive(engine)
    assert proc.entry(child) is None
    os.kill(engine.pid, signal.SIGKILL)
    await until(lambda: not proc.alive(engine.pid))
    later = Supervisor(directory=tmp_path, clock=FakeClock())
    later._seen[engine.token] = {engine.pid: engine.started}
    assert not later.alive(engine)
    assert supervisor.exit_code(engine) == -signal.SIGKILL, "its status was for who started it"


async def test_processes_that_survive_sigkill_are_told_after_the_deadline(
    supervisor: Supervisor, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "KILL_DEADLINE_S", 0.5)
    monkeypatch.setattr(supervisor_module, "POLL_S", 0.125)
    engine = supervisor.start("m", SLEEP, {})
    sent: list[tuple[int, int]] = []
    with monkeypatch.context() as patched:
        patched.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
        with pytest.raises(Unavailable) as failure:
            await supervisor.stop(engine, grace_s=1)
    assert str(failure.value) == (
        f"processes [{engine.pid}] of m survive SIGKILL: check for a hung driver or file system "
        "(state D); a reboot may be needed"
    )
    assert sent[0] == (engine.pid, signal.SIGTERM)
    assert set(sent[1:]) == {(engine.pid, signal.SIGKILL)}
    assert clock.now == 1000 + 1 + 0.5 + 0.125
    assert supervisor.records().keys() == {"m"}, "it is tried again"
