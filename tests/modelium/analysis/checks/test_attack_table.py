"""docs/security.md names a test for every attack; the tests that it names exist."""

import ast
import re
from pathlib import Path

DOCUMENT = Path(__file__).parents[4] / "docs" / "security.md"
TESTS = Path(__file__).parents[1]


def test_every_attack_names_tests_that_exist() -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 40
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row)
        assert named, f"no test in: {row}"
        for file, test in named:
            tree = ast.parse(next(TESTS.rglob(file)).read_text())
            functions = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
            assert test in functions, f"{file} has no {test}"
