"""Try one mutation: copy of the tree, changed file, the tests that run it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tools.mutants.forks import Forks
from tools.mutants.mutations import Mutation

COPIED = ("modelium", "flows", "agents", "runtimes", "tests", "tools", "deploy", "docs", "bench")
FILES = ("pyproject.toml", "README.md", "CHANGELOG.md", "Makefile")
FIRST = 40
"""Tests of the first attempt; the others run only where these notice nothing."""

Result = Literal["noticed", "unnoticed", "not run"]


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A mutation of one file."""

    group: str
    path: Path
    """Relative to the root of the repository."""
    mutation: Mutation

    def __str__(self) -> str:
        """Return the place and the change in one line."""
        return f"{self.path}:{self.mutation.line}: {self.mutation.what}"


class Bench:
    """A copy of the tree, in which one mutant at a time is tried."""

    def __init__(self, *, root: Path, place: Path) -> None:
        """Copy ``root`` to ``place``."""
        self._place = place
        ignored = shutil.ignore_patterns("*.pyc")
        for name in COPIED:
            shutil.copytree(root / name, place / name, symlinks=True, ignore=ignored)
        for name in (*FILES, "requirements"):
            if (root / name).is_dir():
                shutil.copytree(root / name, place / name)
            elif (root / name).exists():
                shutil.copy2(root / name, place / name)
        subprocess.run([sys.executable, "-m", "compileall", "-q", *COPIED], cwd=place, check=False)
        self._forks = Forks(place)

    def attempt(self, mutant: Mutant, tests: Sequence[str]) -> Result:
        """Run ``tests`` against the mutant, nearest first, until one fails."""
        if not tests:
            return "not run"
        path = self._place / mutant.path
        original = path.read_bytes()
        self._forget(path)
        path.write_bytes(mutant.mutation.apply(original))
        try:
            passed = self._passes(tests[:FIRST]) and self._passes(tests[FIRST:])
        finally:
            path.write_bytes(original)
            self._forget(path)
        return "unnoticed" if passed else "noticed"

    def end(self) -> None:
        """End the process that runs the tests."""
        self._forks.end()

    def _forget(self, path: Path) -> None:
        """Remove what was compiled: a mutant may have the size and time of the original."""
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()

    def _passes(self, tests: Sequence[str]) -> bool:
        if not tests:
            return True
        arguments = self._place / "tests.txt"
        arguments.write_text("\n".join(tests))
        given = ["-x", "-q", "--no-header", "--timeout=60", f"--basetemp={self._place / 'scratch'}"]
        given += ["-p", "no:cacheprovider", "-p", "no:xdist", f"@{arguments}"]
        return self._forks.run(given) == 0
