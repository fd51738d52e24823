"""How long a start is waited for, on a clock of the test."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from modelium.devices import processes
from modelium.errors import FailureKind, LoadFailed
from modelium.models import RuntimeName
from runtimes.engines import start as start_module
from runtimes.engines.client import EngineClient
from runtimes.engines.instance import EngineInstance
from runtimes.engines.start import EngineStart
from runtimes.process import engine_log, proc
from runtimes.process.supervisor import Command, EngineProcess, Supervisor
from tests.runtimes.clock import FakeClock
from tests.runtimes.conditions import until
from tests.runtimes.engines.api import NOTHING, Api, Recipe
from tests.runtimes.requests import request
from tests.runtimes.worker import Worker

Progress = tuple[str, float | None]
READY: dict[str, Any] = {"health": (200, {}), "v1__models": (200, {"data": [{"id": "m"}]})}


class Bench:
    """A start of model ``m`` that is followed; ``at`` says what happens at which second."""

    def __init__(self, folder: Path, *, recipe: Recipe | None = None) -> None:
        self.folder = folder
        self.recipe = recipe or Recipe()
        self.at: Mapping[int, Callable[[], object]] = {}
        self.step_s = 0.25
        self.clock = FakeClock(self._on_sleep)
        self.supervisor = Supervisor(directory=folder, clock=self.clock)
        self.progress: list[Progress] = []
        self.stalls: list[float] = []
        self._log = self.supervisor.log("m").open()

    def _on_sleep(self) -> None:
        if self.step_s != 0.25:
            self.clock.now += self.step_s - 0.25
        self.at.get(round(self.clock.now - 1000), lambda: None)()

    def say(self, text: str) -> None:
        os.write(self._log, text.encode())

    async def follow(
        self,
        process: EngineProcess,
        *,
        port: int = 1,
        no_progress_s: float = 300.0,
        deadline_s: float = 10_000.0,
    ) -> None:
        client = EngineClient(recipe=self.recipe, clock=self.clock)
        handle = {"host": "127.0.0.1", "port": port, "api_key": "k3y"}
        start = EngineStart(
            recipe=self.recipe,
            supervisor=self.supervisor,
            client=client,
            clock=self.clock,
            no_progress_s=no_progress_s,
        )
        try:
            await start.wait_until_ready(
                EngineInstance.restore(RuntimeName.VLLM, process, handle),
                request(self.folder, model="m", deadline_s=deadline_s),
                lambda phase, share: self.progress.append((phase, share)),
                on_stall=lambda: self.stalls.append(self.clock.now - 1000),
            )
        finally:
            os.close(self._log)
            await client.close()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def this_process() -> EngineProcess:
    """Return the engine whose API is served here. Never stop it."""
    pid = os.getpid()
    started = processes.start_time(pid)
    assert started
    return EngineProcess(model="m", pid=pid, started=started, boot=proc.boot_id(), token="of tests")


async def test_a_start_is_over_when_the_engine_has_answered_a_request(bench: Bench) -> None:
    health = [(503, ""), NOTHING, (503, ""), (200, {})]
    bench.say("phase reading 0.5\nphase loading 0.25\nother\n")
    async with Api(
        health=health,
        v1__models=[(503, ""), *[READY["v1__models"]]],
        probe=(200, {}),
    ) as api:
        await bench.follow(this_process(), port=api.port)
    assert bench.progress == [
        *(("starting", None), ("loading", 0.25), ("sending a first request", None)),
    ]
    assert bench.clock.now == 1000 + 4 * 0.25
    assert api.targets == [*["/health"] * 4, "/v1/models", "/health", "/v1/models", "/probe"]
    assert api.seen[-1].body == {"prompt": "1"}
    assert api.seen[-1].authorization == "Bearer k3y"


async def test_phases_are_told_as_the_log_names_them(bench: Bench) -> None:
    bench.step_s = 1
    bench.at = {
        1: lambda: bench.say("phase reading 0.5\n"),
        2: lambda: bench.say("phase reading 0.5\n"),
        3: lambda: bench.say("phase reading 0.75\nphase compi"),
        4: lambda: bench.say("ling 0\n"),
    }
    with Worker() as worker, pytest.raises(LoadFailed) as failure:
        await bench.follow(worker.engine(), deadline_s=5)
    assert bench.progress == [
        *(("starting", None), ("reading", 0.5), ("reading", 0.75), ("compiling", 0.0)),
    ]
    assert str(failure.value) == (
        "m was not ready within 5 s (last phase: “compiling”): phase reading 0.5 | "
        f"phase reading 0.5 | phase reading 0.75 | phase compiling 0 (log: {bench.folder}/m.log)"
    )
    assert failure.value.kind == FailureKind.STUCK
    assert bench.clock.now == 1006, "at the deadline itself it may still become ready"


async def test_an_engine_that_does_nothing_stalls_and_is_then_given_up(bench: Bench) -> None:
    bench.step_s = 10
    with Worker() as worker, pytest.raises(LoadFailed) as failure:
        await bench.follow(worker.engine(), no_progress_s=50)
    assert bench.stalls == [20, 30, 40, 50, 60], "after more than a fifth"
    assert failure.value.kind == FailureKind.STUCK
    assert str(failure.value) == (
        f"m made no progress for 50 s in phase “starting”:  (log: {bench.folder}/m.log)"
    )


@pytest.mark.parametrize(
    ("bytes_", "given_up_at"), [(1_000_000, 60), (1_000_001, 70), (100_000, 60)]
)
async def test_reading_is_progress_above_100_kb_a_second(
    bench: Bench, bytes_: int, given_up_at: float
) -> None:
    bench.step_s = 10
    with Worker() as worker:
        bench.at = {10: lambda: worker.read(bytes_)}
        with pytest.raises(LoadFailed, match="no progress"):
            await bench.follow(worker.engine(), no_progress_s=50)
    assert bench.clock.now - 1000 == given_up_at


@pytest.mark.parametrize(("share", "given_up_at"), [(0.021, 1), (0.019, 0)])
async def test_computing_is_progress_above_a_fiftieth_of_a_processor(
    bench: Bench, share: float, given_up_at: float
) -> None:
    with Worker() as worker:
        took: list[float] = []

        def work() -> None:
            took.append(worker.compute(0.05))
            bench.step_s = took[0] / share
            bench.clock.now = 1000 + bench.step_s

        bench.at = {0: work}
        bench.step_s = 0.25
        with pytest.raises(LoadFailed, match="no progress"):
            await bench.follow(worker.engine(), no_progress_s=1.5 * 0.05 / share)
    looks = (bench.clock.now - 1000) / bench.step_s
    assert round(looks) == 2 + given_up_at


async def test_a_phase_is_progress(bench: Bench) -> None:
    bench.step_s = 10
    bench.at = {40: lambda: bench.say("phase loading 0.5\n")}
    with Worker() as worker, pytest.raises(LoadFailed, match="in phase “loading”"):
        await bench.follow(worker.engine(), no_progress_s=50)
    assert bench.clock.now == 1100
    assert bench.stalls == [20, 30, 60, 70, 80, 90, 100]


async def test_a_log_is_kept_small_meanwhile(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_log, "MAX_BYTES", 10)
    bench.say("a line that is longer\n")
    with Worker() as worker, pytest.raises(LoadFailed):
        await bench.follow(worker.engine(), deadline_s=0)
    assert sorted(path.name for path in bench.folder.iterdir()) == ["m.log", "m.log.1"]


@pytest.mark.parametrize(("probed", "status"), [(True, 200), (True, 404), (True, 501), (False, 0)])
async def test_what_the_engine_does_not_offer_is_no_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int, *, probed: bool
) -> None:
    bench = Bench(tmp_path, recipe=Recipe(probed=probed))
    async with Api(probe=(status, "no embeddings"), **READY) as api:
        await bench.follow(this_process(), port=api.port)
    assert ("/probe" in api.targets) is probed
    warned = ["m is loaded, but /probe says: no embeddings"] if status == 501 else []
    assert [r.getMessage() for r in caplog.records if r.name == start_module.__name__] == warned


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [((500, "x" * 400), "x" * 300), ((502, "no"), "no"), (NOTHING, "RemoteProtocolError")],
)
async def test_a_first_request_that_fails_fails_the_start(
    bench: Bench, answer: tuple[int, str], outcome: str
) -> None:
    bench.say("one\nRuntimeError: no kernel\n")
    async with Api(probe=answer, **READY) as api:
        with pytest.raises(LoadFailed) as failure:
            await bench.follow(this_process(), port=api.port)
    assert str(failure.value) == (
        f"m started but failed its first request ({outcome}): RuntimeError: no kernel "
        f"(log: {bench.folder}/m.log)"
    )
    assert failure.value.kind == FailureKind.BAD_FILES
    assert bench.recipe.failures == [(["one", "RuntimeError: no kernel"], None)]
    assert bench.clock.now == 1001, "it had a second to exit"


async def test_an_engine_that_serves_another_model_is_refused(bench: Bench) -> None:
    async with Api(health=(200, {}), v1__models=(200, {"data": [{"id": "x"}, {"id": "y"}]})) as api:
        with pytest.raises(LoadFailed) as failure:
            await bench.follow(this_process(), port=api.port)
    assert str(failure.value) == "the engine serves ['x', 'y'] instead of m"
    assert failure.value.kind == FailureKind.BAD_SETTINGS


async def test_an_engine_that_exits_is_told_with_its_status_and_last_words(
    bench: Bench,
) -> None:
    engine = bench.supervisor.start("m", Command(argv=("sh", "-c", "echo an error; exit 3")), {})
    await until(lambda: not bench.supervisor.alive(engine))
    with pytest.raises(LoadFailed) as failure:
        await bench.follow(engine)
    assert str(failure.value) == (
        f"vLLM could not load m (bad-files, exit status 3): an error (log: {bench.folder}/m.log)"
    )
    assert failure.value.kind == FailureKind.BAD_FILES
    assert bench.recipe.failures == [(["an error"], 3)]
    assert bench.progress == [("starting", None)]


async def test_an_error_quotes_the_last_lines_that_name_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start_module, "QUOTED_LINES", 3)
    lines = [f"Error {number}" for number in range(5)] + ["  cannot " + "x" * 400, "all fine"]
    bench.say("\n".join(lines) + "\n")
    with Worker() as worker, pytest.raises(LoadFailed) as failure:
        await bench.follow(worker.engine(), deadline_s=0)
    quoted = f"Error 3 | Error 4 | {'cannot ' + 'x' * 293}"
    assert str(failure.value).endswith(f": {quoted} (log: {bench.folder}/m.log)")
