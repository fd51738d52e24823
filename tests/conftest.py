"""Hypothesis profiles, and how the suite is spread over pytest-xdist's workers."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

settings.register_profile("fixed", derandomize=True, database=None)
"""The default: every run draws the same examples, so that a test passes or fails for the code."""
settings.register_profile("fuzz", max_examples=2000, deadline=None, print_blob=True)
"""``make fuzz``: other examples in every run, and twenty times as many."""
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.hookimpl(tryfirst=True)  # before xdist, which reads the groups in this hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what starts real servers in one worker, first, and everything else beside it.

    Modules with servers of their own name a group of their own and may be in the other one.
    Such servers are shared by a session and heavy (a Ray cluster is a gigabyte): a second
    worker would start a second one. They take longest, so they start at once. They are tried
    twice, because a machine can stall for longer than any of them should wait.
    """
    for item in items:
        if not item.get_closest_marker("real"):
            continue
        item.add_marker(pytest.mark.flaky(reruns=1))
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group("real"))
    items.sort(key=lambda item: item.get_closest_marker("real") is None)
