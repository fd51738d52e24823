"""Which unit tests run a line, and how long each takes."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
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

    def tests(self, path: Path, line: int) -> list[str]:
        """Return tests that run ``line`` (1-based): nearest directory first, then fastest.

        Those that do not fit in `BUDGET_S` any more are left out: a line that everything runs
        would take the whole suite.
        """
        found = self._tests.get(str(path), {}).get(line, frozenset())
        mirrored = f"tests/{path.parent}/"
        ordered = sorted(
            (test for test in found if test in self._seconds),
            key=lambda test: (not test.startswith(mirrored), self._seconds[test], test),
        )
        totals = itertools.accumulate(self._seconds[test] for test in ordered)
        return [test for test, total in zip(ordered, totals, strict=True) if total <= BUDGET_S]


def measure(root: Path, cache: Path, *, workers: int) -> CoverageMap:
    """Run with coverage those unit tests that changed since they were measured with this code.

    Raises:
        SystemExit: a test fails without any mutation.
    """
    code = _digest(path for folder in SOURCES for path in _python(root / folder))
    known = _Known(cache / f"{code}.json")
    files = {
        str(path.relative_to(root)): _digest([path])
        for folder in UNIT_TESTS
        for path in _python(root / folder)
        if path.name.startswith("test_") and CONFORMANCE not in str(path)
    }
    changed = {name: d for name, d in files.items() if known.files.get(name) != d}
    if changed:
        known.add(changed, _run(root, changed, workers=workers), root)
    return CoverageMap(tests=known.tests(), seconds=known.seconds)


class _Known:
    """What was measured: digests of test files, durations of tests, tests of each line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        stored = json.loads(path.read_text()) if path.exists() else {}
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

    def add(
        self, files: Mapping[str, str], records: Iterable[Mapping[str, Any]], root: Path
    ) -> None:
        """Take over what a run of ``files`` recorded; tests that they no longer have are gone."""
        self.files |= files
        self.seconds = {t: s for t, s in self.seconds.items() if t.partition("::")[0] not in files}
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
        self._path.write_text(
            json.dumps(
                {
                    "files": self.files,
                    "seconds": self.seconds,
                    "names": self._names,
                    "lines": self._lines,
                }
            )
        )


def _run(root: Path, files: Iterable[str], *, workers: int) -> list[Mapping[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        place = Path(scratch)
        (place / "files.txt").write_text("\n".join(files))
        command = [sys.executable, "-m", "pytest", f"@{place / 'files.txt'}", "-q", "--no-header"]
        command += ["-m", "not real and not conformance", "-n", str(workers)]
        command += ["-p", "tools.mutants.recorder", f"--basetemp={place / 'tests'}"]
        environment = {**os.environ, "MUTANTS_RECORD": scratch}
        status = subprocess.run(command, cwd=root, env=environment, check=False).returncode
        if status not in (0, 5):  # 5: none of them is a unit test
            raise SystemExit("these tests fail without a mutation; mend them first")
        return [json.loads(path.read_text()) for path in place.glob("*.json")]


def _python(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(str(path).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
