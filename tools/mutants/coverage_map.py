"""Which unit tests run a line, and how long each takes."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from tools.mutants.recorder import SOURCES

UNIT_TESTS = tuple(
    f"tests/{name}"
    for name in ("modelium", "agents", "flows", "runtimes", "tools", "invariants", "faults")
)
BUDGET_S = 60.0
"""Of tests per mutant, as measured with coverage, which takes about twice as long."""
CONFORMANCE = "tests/runtimes/conformance"


class CoverageMap:
    """The tests of each line, by one run of the unit suite."""

    def __init__(
        self, *, tests: Mapping[str, Mapping[int, frozenset[str]]], seconds: Mapping[str, float]
    ) -> None:
        """``tests`` maps file and line to node ids; ``seconds`` a node id to its duration."""
        self._tests = tests
        self._seconds = seconds

    def tests(self, path: Path, line: int, *, budget_s: float = BUDGET_S) -> list[str]:
        """Return tests that run ``line`` (1-based): nearest directory first, then fastest.

        Those that do not fit in ``budget_s`` any more are left out: a line that everything runs
        would take the whole suite.
        """
        found = self._tests.get(str(path), {}).get(line, frozenset())
        mirrored = f"tests/{path.parent}/"
        ordered = sorted(
            (test for test in found if test in self._seconds),
            key=lambda test: (not test.startswith(mirrored), self._seconds[test], test),
        )
        totals = itertools.accumulate(self._seconds[test] for test in ordered)
        return [test for test, total in zip(ordered, totals, strict=True) if total <= budget_s]


def measure(root: Path, cache: Path, *, workers: int) -> CoverageMap:
    """Run with coverage those unit tests that changed, or ran code that changed.

    Raises:
        SystemExit: a test fails without any mutation.
    """
    known = _Known(cache / "known.json")
    code = {name: _digest(root / name) for name in _python(root, SOURCES)}
    files = {
        name: _digest(root / name)
        for name in _python(root, UNIT_TESTS)
        if Path(name).name.startswith("test_") and CONFORMANCE not in name
    }
    stale = known.running(
        {name for name in {*code, *known.code} if code.get(name) != known.code.get(name)}
    )
    changed = {n: d for n, d in files.items() if n in stale or known.files.get(n) != d}
    if changed:
        known.add(changed, code, _run(root, changed, workers=workers), root)
    return CoverageMap(tests=known.tests(), seconds=known.seconds)


class _Known:
    """What was measured: digests of files, durations of tests, tests of each line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        stored = json.loads(path.read_text()) if path.exists() else {}
        self.code: dict[str, str] = stored.get("code", {})
        self.files: dict[str, str] = stored.get("files", {})
        self.seconds: dict[str, float] = stored.get("seconds", {})
        self._names: list[str] = stored.get("names", [])
        self._lines: dict[str, dict[str, list[int]]] = stored.get("lines", {})

    def tests(self) -> dict[str, dict[int, frozenset[str]]]:
        """Return the tests of each line of each file."""
        return {
            name: {
                int(line): frozenset(self._names[index] for index in tests)
                for line, tests in lines.items()
            }
            for name, lines in self._lines.items()
        }

    def running(self, code: Container[str]) -> set[str]:
        """Return the test files that ran any line of ``code``, as it was then."""
        return {
            _file(self._names[test])
            for name, lines in self._lines.items()
            if name in code
            for tests in lines.values()
            for test in tests
        }

    def add(
        self,
        files: Mapping[str, str],
        code: Mapping[str, str],
        records: Iterable[Mapping[str, Any]],
        root: Path,
    ) -> None:
        """Put what a run of ``files`` with ``code`` recorded in place of what is known of them."""
        self.files |= files
        self.code = dict(code)
        self.seconds = {test: s for test, s in self.seconds.items() if _file(test) not in files}
        gone = {index for index, name in enumerate(self._names) if _file(name) in files}
        for lines in self._lines.values():
            for line in lines:
                lines[line] = [test for test in lines[line] if test not in gone]
        indices = {name: index for index, name in enumerate(self._names)}
        for record in records:
            self.seconds |= record["seconds"]
            for name, lines in record["lines"].items():
                own = self._lines.setdefault(str(Path(name).relative_to(root)), {})
                for line, tests in lines.items():
                    found = [indices.setdefault(test, len(indices)) for test in tests]
                    own[line] = [*own.get(line, ()), *found]
        self._names = list(indices)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        stored = {"code": self.code, "files": self.files, "seconds": self.seconds}
        stored |= {"names": self._names, "lines": self._lines}
        self._path.write_text(json.dumps(stored))


def _run(root: Path, files: Iterable[str], *, workers: int) -> list[Mapping[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        place = Path(scratch)
        (place / "files.txt").write_text("\n".join(files))
        command = [sys.executable, "-m", "pytest", f"@{place / 'files.txt'}", "-q", "--no-header"]
        command += ["-m", "not real and not conformance"]
        command += ["-n", str(workers)] if workers > 1 else ["-p", "no:xdist"]
        command += ["-p", "tools.mutants.recorder", f"--basetemp={place / 'tests'}"]
        environment = {**os.environ, "MUTANTS_RECORD": scratch}
        status = subprocess.run(command, cwd=root, env=environment, check=False).returncode
        if status not in (0, 5):  # 5: none of them is a unit test
            raise SystemExit("these tests fail without a mutation; mend them first")
        return [json.loads(path.read_text()) for path in place.glob("*.json")]


def _python(root: Path, folders: Iterable[str]) -> list[str]:
    return [str(p.relative_to(root)) for f in folders for p in sorted((root / f).rglob("*.py"))]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _file(test: str) -> str:
    return test.partition("::")[0]
