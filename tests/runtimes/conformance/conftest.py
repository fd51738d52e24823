"""Runs the suite once per runtime, checks that nothing is left, and prints the table."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from modelium.ports import Runtime
from runtimes.process import proc
from runtimes.process.shared_memory import regions
from tests.runtimes.conformance.bench import Bench
from tests.runtimes.conformance.benches import FACTORIES

RESULTS = pytest.StashKey[dict[tuple[str, str], str]]()
FIGURES = pytest.StashKey[dict[str, str]]()
SHARED_MEMORY = Path("/dev/shm")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = {}
    config.stash[FIGURES] = {}


def belongs(pid: int, state: Path) -> bool:
    """Whether ``pid`` was started for ``state``: by its arguments, environment or directory."""
    word, folder = str(state).encode(), Path("/proc", str(pid))
    try:
        environment = (folder / "environ").read_bytes()
        directory = os.readlink(folder / "cwd").encode()
    except OSError:
        environment = directory = b""
    return word in proc.command_line(pid) or word in environment or directory.startswith(word)


def remains(state: Path) -> list[str]:
    """Processes and records that belong to the runtime under test in ``state``."""
    found = [
        f"process {pid}: {proc.command_line(pid)[:200]!r}"
        for pid, process in proc.snapshot().items()
        if process.alive and belongs(pid, state)
    ]
    found += [f"record {path.name}" for path in state.glob("*/*.json")]
    return found


def shared_memory() -> set[str]:
    # Python's semaphores are unmapped while in use: those of tests beside this one look left.
    # Folders are those of tests that want a fast disk.
    entries = [path for path in SHARED_MEMORY.iterdir() if not path.name.startswith("sem.")]
    return {path.name for path in entries if not path.is_dir()}


def listening(state: Path) -> set[int | str]:
    """TCP ports and sockets on which processes listen that belong to the runtime in ``state``."""
    ports = {
        connection.laddr.port
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
        and connection.pid
        and belongs(connection.pid, state)
    }
    sockets = {
        connection.laddr
        for connection in psutil.net_connections("unix")
        if connection.laddr and connection.pid and belongs(connection.pid, state)
    }
    return ports | {path for path in sockets if path.endswith("http")}


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in FACTORIES],
)
async def bench(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bench]:
    shared_before = shared_memory()
    made = FACTORIES[request.param](tmp_path_factory.mktemp(request.param))
    yield made
    async with made.driver() as driver:
        await driver.end(grace_s=5)
    assert remains(made.state) == []
    assert listening(made.state) == set()
    # Other tests may run at the same time: what a process has mapped is not left behind.
    left = shared_memory() - shared_before
    assert left - {path.name for path in regions(proc.snapshot())} == set()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def driver(bench: Bench) -> AsyncIterator[Runtime]:
    async with bench.driver() as made:
        yield made


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> dict[str, str]:
    """Figures to print under the table."""
    return request.config.stash[FIGURES]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    outcome = yield
    report = outcome.get_result()
    parameters = getattr(item, "callspec", None)
    if parameters is None or "bench" not in parameters.params:
        return
    key = (parameters.params["bench"], item.function.__doc__ or item.name)  # type: ignore[attr-defined]
    if report.when == "call" or report.failed:
        item.config.stash[RESULTS][key] = (
            f"{call.duration:.1f} s" if report.passed else report.outcome.upper()
        )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    results = terminalreporter.config.stash[RESULTS]
    if not results:
        return
    drivers = list(dict.fromkeys(driver for driver, _ in results))
    cases = list(dict.fromkeys(case for _, case in results))
    width = max(map(len, cases)) + 2
    terminalreporter.section("conformance: driver × case")
    terminalreporter.write_line("".ljust(width) + "".join(name.rjust(14) for name in drivers))
    for case in cases:
        row = "".join(results.get((name, case), "-").rjust(14) for name in drivers)
        terminalreporter.write_line(case.ljust(width) + row)
    for name, figure in terminalreporter.config.stash[FIGURES].items():
        terminalreporter.write_line(f"{name}: {figure}")
