"""A pytest plugin that records which lines each test runs, and how long it takes.

Coverage's own plugin writes to files between tests, which tests that start and fork processes
disturb; this one keeps everything in memory until the end.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

SOURCES = ("modelium", "flows", "agents", "runtimes")


class _Recorder:
    """One per process: a worker's, or the only one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seconds: Counter[str] = Counter()
        self._pid = os.getpid()
        self._coverage = coverage.Coverage(data_file=None, source=list(SOURCES), config_file=False)
        self._coverage.start()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._coverage.switch_context(item.nodeid.partition("@")[0])
        try:
            return (yield)
        finally:
            self._coverage.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid.partition("@")[0]] += report.duration

    def pytest_sessionfinish(self) -> None:
        if os.getpid() != self._pid:
            return
        self._coverage.stop()
        data = self._coverage.get_data()
        lines = {
            name: {
                line: [t for t in tests if t]
                for line, tests in data.contexts_by_lineno(name).items()
            }
            for name in data.measured_files()
        }
        self._path.write_text(json.dumps({"lines": lines, "seconds": self._seconds}))


def pytest_configure(config: pytest.Config) -> None:
    """Record in each worker, and not in the process that starts them."""
    worker = getattr(config, "workerinput", {}).get("workerid")
    if worker or not config.getoption("numprocesses", None):
        place = Path(os.environ["MUTANTS_RECORD"])
        config.pluginmanager.register(_Recorder(place / f"{worker or 'all'}.json"))
