"""The import contracts in pyproject.toml hold, and a forbidden import fails them."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("modelium", "flows", "agents", "runtimes")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the packages and their contracts."""
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(checkout: Path) -> tuple[int, str]:
    """Run `make lint`'s import check; return its exit code and output."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def add_import(module: Path, line: str) -> None:
    """Add ``line`` after the module's ``__future__`` import."""
    source = module.read_text(encoding="utf-8")
    head = "from __future__ import annotations\n"
    assert head in source
    module.write_text(source.replace(head, f"{head}\n{line}\n", 1), encoding="utf-8")


def test_the_packages_keep_the_contracts(checkout: Path) -> None:
    code, output = lint_imports(checkout)

    assert code == 0, output
    assert "0 broken" in output


TYPE_ONLY = """\
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelium import store"""


@pytest.mark.parametrize(
    ("module", "line", "contract", "named"),
    [
        (
            "modelium/clock.py",
            "from modelium import store",
            "Imports go down",
            "modelium.clock -> modelium.store",
        ),
        (
            "modelium/clock.py",
            TYPE_ONLY,
            "Imports go down",
            "modelium.clock -> modelium.store",
        ),
        (
            "runtimes/vllm/driver.py",
            "from agents import brain",
            "Imports go down",
            "runtimes.vllm.driver -> agents.brain",
        ),
        (
            "modelium/config/fields.py",
            "from modelium.config import lookup",
            "No circles, at any depth",
            "modelium.config",
        ),
        (
            "modelium/stages/monitor.py",
            "import prefect",
            "Prefect stays in flows",
            "modelium.stages.monitor -> prefect",
        ),
    ],
    ids=["up", "up-for-a-type", "sideways", "circle", "third-party"],
)
def test_a_forbidden_import_breaks_its_contract(
    checkout: Path, module: str, line: str, contract: str, named: str
) -> None:
    add_import(checkout / module, line)

    code, output = lint_imports(checkout)

    assert code == 1, output
    assert f"{contract} BROKEN" in output
    assert named in output.partition("Broken contracts")[2]


def test_no_private_name_crosses_a_package() -> None:
    crossing = []
    packages = ("modelium", "flows", "agents", "runtimes")
    for package in packages:
        for file in (ROOT / package).rglob("*.py"):
            home = ".".join(file.relative_to(ROOT).parent.parts)
            for node in ast.walk(ast.parse(file.read_text())):
                if not isinstance(node, ast.ImportFrom) or not node.module:
                    continue
                if node.module.split(".")[0] in packages and node.module != home:
                    private = [a.name for a in node.names if a.name.startswith("_")]
                    private += [part for part in node.module.split(".") if part.startswith("_")]
                    private = [name for name in private if not name.startswith("__")]
                    if private:
                        crossing.append(f"{file.relative_to(ROOT)}: {private}")
    assert crossing == []
