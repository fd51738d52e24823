"""A forbidden import fails the contracts in pyproject.toml, which `make lint` checks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("modelium", "flows", "agents", "runtimes")


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


TYPE_ONLY = """\
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelium import intake"""

FORBIDDEN = {
    "up": (
        "modelium/clock.py",
        "from modelium import store",
        "Imports go down",
        "modelium.clock -> modelium.store",
    ),
    "up-for-a-type": (
        "modelium/errors.py",
        TYPE_ONLY,
        "Imports go down",
        "modelium.errors -> modelium.intake",
    ),
    "sideways": (
        "runtimes/vllm/driver.py",
        "from agents import brain",
        "Imports go down",
        "runtimes.vllm.driver -> agents.brain",
    ),
    "circle": (
        "modelium/config/fields.py",
        "from modelium.config import lookup",
        "No circles, at any depth",
        "modelium.config",
    ),
    "third-party": (
        "modelium/stages/monitor.py",
        "import prefect",
        "Prefect stays in flows",
        "modelium.stages.monitor -> prefect",
    ),
}
"""Name → module, line to add, contract, what its report names. `make lint` checks the rest."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What is said of a copy of the packages that has all of `FORBIDDEN`."""
    checkout = tmp_path_factory.mktemp("checkout")
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", checkout)
    for module, line, _, _ in FORBIDDEN.values():
        add_import(checkout / module, line)
    code, output = lint_imports(checkout)
    assert code == 1, output
    return output


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_forbidden_import_breaks_its_contract(report: str, name: str) -> None:
    _, _, contract, named = FORBIDDEN[name]
    assert f"{contract} BROKEN" in report
    assert named in report.partition("Broken contracts")[2].partition(f"\n{contract}\n")[2]


IMPORT = re.compile(
    r"^ *from ((?:modelium|flows|agents|runtimes)[\w.]*) import (\([^)]*\)|.*)", re.M
)


def test_no_private_name_crosses_a_package() -> None:
    crossing, seen = [], 0
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            home = ".".join(file.relative_to(ROOT).parent.parts)
            for module, names in IMPORT.findall(file.read_text(encoding="utf-8")):
                seen += 1
                words = [*module.split("."), *re.findall(r"\w+", re.sub(r" as \w+|#.*", "", names))]
                private = [word for word in words if re.match("_[^_]", word)]
                if module != home and private:
                    crossing.append(f"{file.relative_to(ROOT)}: {private}")
    assert crossing == [] and seen > 1000
