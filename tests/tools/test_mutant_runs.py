"""What `make mutants` measures and runs, on a small project of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.mutants.coverage_map import CoverageMap, measure
from tools.mutants.forks import Forks

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Importing all plugins takes many times as long as these tests.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in ("one", "two"):
        code = tmp_path / f"modelium/{name}.py"
        code.parent.mkdir(exist_ok=True)
        (code.parent / "__init__.py").touch()
        code.write_text(f"def {name}():\n    return 1\n")
        test = tmp_path / f"tests/modelium/test_{name}.py"
        test.parent.mkdir(parents=True, exist_ok=True)
        test.write_text(
            f"from modelium.{name} import {name}\ndef test_it():\n    assert {name}()\n"
        )
    for folder in ("flows", "agents", "runtimes", "tests/agents", "tests/flows", "tests/runtimes"):
        (tmp_path / folder).mkdir()
    for folder in ("tests/tools", "tests/invariants", "tests/faults"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = real\n    conformance\n")
    return tmp_path


def measured(project: Path) -> tuple[CoverageMap, dict[str, float]]:
    known = measure(project, project / "cache", workers=1)
    return known, json.loads((project / "cache/known.json").read_text())["seconds"]


def test_only_tests_that_changed_or_ran_changed_code_are_measured_again(project: Path) -> None:
    _, before = measured(project)
    two = project / "modelium/two.py"
    two.write_text(f"# moves the rest down\n{two.read_text()}")
    known, after = measured(project)
    one, other = (f"tests/modelium/test_{name}.py::test_it" for name in ("one", "two"))
    assert before.keys() == after.keys() == {one, other}
    assert before[one] == after[one]
    assert before[other] != after[other]
    assert known.tests(Path("modelium/one.py"), 2) == [one]
    assert known.tests(Path("modelium/two.py"), 3) == [other]
    assert known.tests(Path("modelium/two.py"), 2) == []


def test_a_fork_imports_the_code_as_it_is_then(project: Path) -> None:
    test, code = str(project / "tests/modelium/test_one.py"), project / "modelium/one.py"
    forks = Forks(project, libraries=())
    try:
        arguments = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", test]
        assert forks.run(arguments) == 0
        code.write_text("def one():\n    return 0\n")
        assert forks.run(arguments) == 1
    finally:
        forks.end()
