"""docs/security.md names a test for every attack and finding; the tests that it names exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[4]
ROW = re.compile(r"^\| (?!-)")


def test_every_row_names_tests_that_exist_or_says_that_it_is_left() -> None:
    lines = (ROOT / "docs" / "security.md").read_text().splitlines()
    rows = [
        line
        for line, after in zip(lines, [*lines[1:], ""], strict=True)
        if ROW.match(line) and not after.startswith("| -")  # the line above is a heading
    ]
    assert len(rows) > 70
    known: dict[str, set[str]] = {}
    for file in (ROOT / "tests").rglob("test_*.py"):
        nodes = ast.walk(ast.parse(file.read_text()))
        names = {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
        known[file.name] = known.get(file.name, set()) | names
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row)
        assert named or re.search(r"\| (left|gap\b.*) \|$", row), f"no test in: {row}"
        for file_name, test in named:
            assert test in known.get(file_name, ()), f"{file_name} has no {test}"
