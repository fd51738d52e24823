"""No test is skipped for what an install step could bring, or for who runs it."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
SKIP = re.compile(r"mark\.skip(?:if)?\((.*)|pytest\.(?:skip|importorskip)\((.*)")
OF_THE_KERNEL = "confine.abi()"
CASES_OF_CONFORMANCE = '"its models have no processes of their own that could be paused")'


def test_only_the_kernel_is_a_reason_to_skip() -> None:
    """A test that lacks a program fails, and names the step that installs it."""
    skips = [
        (path.relative_to(TESTS), condition)
        for path in sorted(TESTS.rglob("*.py"))
        if path != Path(__file__)
        for pair in SKIP.findall(path.read_text())
        if OF_THE_KERNEL not in (condition := "".join(pair)) and condition != CASES_OF_CONFORMANCE
    ]
    assert skips == []
