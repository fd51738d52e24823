"""Starting, adopting and stopping real processes."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from modelium.clock import SystemClock
from modelium.errors import FailureKind, LoadFailed
from runtimes.process import proc
from runtimes.process.supervisor import TOKEN_VARIABLE, Command, EngineProcess, Supervisor
from tests.runtimes.conditions import until

pytestmark = pytest.mark.slow

FAKE = Path(__file__).parents[2] / "fakes" / "engine.py"


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(directory=tmp_path / "engines", clock=SystemClock())
    yield supervisor
    for model, note in supervisor.records().items():
        engine = EngineProcess.from_record(model, note)
        assert engine
        await supervisor.stop(engine, grace_s=0)


def fake(folder: Path, **behaviour: object) -> Command:
    folder.mkdir(exist_ok=True)
    (folder / "fake.json").write_text(json.dumps(behaviour))
    return Command(argv=(sys.executable, str(FAKE), "serve", str(folder), "--port", "0"))


async def started(supervisor: Supervisor, folder: Path, **behaviour: object) -> EngineProcess:
    engine = supervisor.start("m", fake(folder, **behaviour), {"port": 1})
    seen: list[str] = []

    def loading() -> bool:
        seen.extend(supervisor.log("m").new_lines())
        return any("Loading" in line for line in seen)

    await until(loading)
    return engine


async def test_an_engine_ends_by_itself_on_sigterm(supervisor: Supervisor, tmp_path: Path) -> None:
    engine = await started(supervisor, tmp_path / "m")
    assert supervisor.alive(engine)
    await supervisor.stop(engine, grace_s=20)
    assert not supervisor.alive(engine)
    assert proc.entry(engine.pid) is None, "it must be reaped, not left a zombie"
    assert supervisor.records() == {}


async def test_children_and_escaped_orphans_of_a_stubborn_engine_are_killed(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    engine = await started(
        supervisor, tmp_path / "m", ignore_term=True, fork=2, escape=True, start_s=60
    )
    members = supervisor.members(engine, thorough=True)
    assert len(members) == 4
    sessions = {os.getsid(pid) for pid in members}
    assert len(sessions) == 2, "the escaped one has a session of its own"

    await supervisor.stop(engine, grace_s=0.3)

    assert not any(proc.alive(pid) for pid in members)


async def test_shared_memory_of_a_killed_engine_is_given_back(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    engine = await started(supervisor, tmp_path / "m", shared_memory=True, ignore_term=True)
    region = f"/dev/shm/fake-engine-{engine.pid}"
    assert os.path.exists(region)  # noqa: ASYNC240
    supervisor.remember_shared_memory(engine)
    os.kill(engine.pid, signal.SIGKILL)
    await until(lambda: not supervisor.alive(engine))
    await supervisor.stop(engine, grace_s=0.1)
    assert not os.path.exists(region)  # noqa: ASYNC240


async def test_semaphores_of_a_killed_engine_are_removed(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    engine = await started(supervisor, tmp_path / "m", semaphore=True, ignore_term=True)
    semaphore = "/dev/shm/sem." + (tmp_path / "m/semaphore").read_text().lstrip("/")
    assert os.path.exists(semaphore)  # noqa: ASYNC240
    await supervisor.stop(engine, grace_s=0.1)
    assert not os.path.exists(semaphore)  # noqa: ASYNC240


async def test_the_rest_of_an_engine_whose_leader_was_killed_is_found_and_ended(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    engine = await started(supervisor, tmp_path / "m", fork=1, escape=True)
    os.kill(engine.pid, signal.SIGKILL)
    await until(lambda: not supervisor.alive(engine))
    rest = supervisor.members(engine, thorough=True)
    assert len(rest) == 2
    assert supervisor.exit_code(engine) == -signal.SIGKILL

    await supervisor.stop(engine, grace_s=5)

    assert not any(proc.alive(pid) for pid in rest)


async def test_another_supervisor_adopts_and_ends_what_the_first_one_started(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    engine = await started(supervisor, tmp_path / "m", fork=1)
    second = Supervisor(directory=tmp_path / "engines", clock=SystemClock())
    note = second.records()["m"]
    found = EngineProcess.from_record("m", note)

    assert found == engine
    assert note["port"] == 1
    assert second.alive(found)
    members = second.members(found)
    await second.stop(found, grace_s=0.2)
    assert not any(proc.alive(pid) for pid in members)


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


async def test_a_pid_that_was_reused_is_not_the_engine(
    supervisor: Supervisor, stranger: subprocess.Popen[bytes]
) -> None:
    boot = proc.boot_id()
    stale = EngineProcess(model="m", pid=stranger.pid, started=1, boot=boot, token="t" * 32)
    assert not supervisor.alive(stale)
    await supervisor.stop(stale, grace_s=1)
    assert stranger.poll() is None
    other_boot = EngineProcess(model="m", pid=stranger.pid, started=1, boot="another", token="x")
    assert supervisor.members(other_boot, thorough=True) == ()


async def test_an_engine_recorded_but_cut_off_before_its_pid_was_known_is_found_by_token(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    engine = await started(supervisor, tmp_path / "m")
    cut_off = EngineProcess(model="m", pid=0, started=0, boot=engine.boot, token=engine.token)
    second = Supervisor(directory=tmp_path / "engines", clock=SystemClock())
    assert second.members(cut_off, thorough=True) == (engine.pid,)
    await second.stop(cut_off, grace_s=1)
    assert not proc.alive(engine.pid)


async def test_secrets_of_our_environment_do_not_reach_engines(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    engine = await started(supervisor, tmp_path / "m")
    environment = json.loads((tmp_path / "m/starts.jsonl").read_text())["env"]
    assert "DATABASE_PASSWORD" not in environment
    assert "PYTHONPATH" not in environment
    assert environment["PATH"].endswith(os.environ["PATH"])
    assert environment[TOKEN_VARIABLE] == engine.token


async def test_records_are_readable_by_their_owner_only(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    await started(supervisor, tmp_path / "m")
    assert stat.S_IMODE((tmp_path / "engines/m.json").stat().st_mode) == 0o600


async def test_a_command_that_is_not_there_is_a_failure_of_the_environment(
    supervisor: Supervisor,
) -> None:
    with pytest.raises(LoadFailed, match="install it") as failure:
        supervisor.start("m", Command(argv=("/nonexistent/vllm",)), {})
    assert failure.value.kind == FailureKind.ENVIRONMENT
    assert supervisor.records() == {}


async def test_the_log_keeps_the_last_words_without_secrets(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    await started(supervisor, tmp_path / "m")
    text = "\n".join(supervisor.log("m").tail(10))
    assert "fake engine" in text
    assert "hunter2" not in text
