"""The mutations of `make mutants`: what is changed, and what is left alone."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tools.mutants.coverage_map import BUDGET_S, CoverageMap
from tools.mutants.mutations import mutations
from tools.mutants.targets import group_files


def mutants(source: str) -> list[str]:
    """Return the body of each mutant of ``f``, in one line."""
    text = textwrap.dedent(source).strip().encode()
    return [" ".join(m.apply(text).decode().split()) for m in mutations(text)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(a, b):\n    return a < b", "def f(a, b): return a <= b"),
        ("def f(a, b):\n    return a + b", "def f(a, b): return a - b"),
        ("def f(a, b):\n    return (a) and (b)", "def f(a, b): return (a) or (b)"),
        ("def f(a, b):\n    return a and b", "def f(a, b): return (b)"),
        ("def f(a):\n    return not a", "def f(a): return (a)"),
        ("def f(a):\n    return min(a, 3)", "def f(a): return max(a, 3)"),
        ("def f(a):\n    return min(a, 3)", "def f(a): return min(a, 4)"),
        ("def f(a):\n    if a:\n        raise ValueError", "def f(a): if a: pass"),
        ("def f(a):\n    if a:\n        raise ValueError", "def f(a): if True: raise ValueError"),
        ("async def f(a):\n    await a.b()", "async def f(a): pass"),
        ("def f(a):\n    a += 1", "def f(a): pass"),
        ("def f():\n    return True", "def f(): return False"),
        ("def f(é):\n    return 'é', é is None", "def f(é): return 'é', é is not None"),
    ],
)
def test_small_mistakes_are_made(source: str, expected: str) -> None:
    assert expected in mutants(source)


@pytest.mark.parametrize(
    "source",
    [
        "LIMIT = 3",
        'def f():\n    """Return 3."""',
        "def f(a: int = 3):\n    ...",
        "def f(a):\n    logger.info('%d', a + 1)",
    ],
)
def test_constants_texts_defaults_and_logging_are_left_alone(source: str) -> None:
    assert mutants(source) == []


def test_every_group_has_files() -> None:
    assert all(group_files(Path(__file__).parents[2]).values())


def test_the_tests_beside_the_code_come_first_and_among_these_the_fastest() -> None:
    seconds = {
        "tests/a/b/test_c.py::slow": 2.0,
        "tests/a/b/test_c.py::fast": 1.0,
        "tests/x.py::y": 0.1,
    }
    known = CoverageMap(tests={"a/b/c.py": {7: frozenset(seconds)}}, seconds=seconds)
    assert known.tests(Path("a/b/c.py"), 7) == [
        "tests/a/b/test_c.py::fast",
        "tests/a/b/test_c.py::slow",
        "tests/x.py::y",
    ]
    assert known.tests(Path("a/b/c.py"), 8) == []


def test_tests_beyond_the_budget_are_left_out() -> None:
    seconds = {f"tests/a/test_b.py::t{n}": BUDGET_S / 2 for n in range(5)}
    known = CoverageMap(tests={"a/b.py": {1: frozenset(seconds)}}, seconds=seconds)
    assert len(known.tests(Path("a/b.py"), 1)) == 2
