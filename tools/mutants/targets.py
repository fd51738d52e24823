"""What decides and protects: the modules that are mutated, by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

GROUPS: Mapping[str, Sequence[str]] = {
    "policy": ("modelium/policy/*.py", "modelium/lifecycle.py", "modelium/models/fleet.py"),
    "store": ("modelium/store/*.py",),
    "operations": ("modelium/control/*.py",),
    "stages": ("modelium/stages/*.py",),
    "routing": ("modelium/routing/*.py",),
    "gateway": (
        "modelium/gateway/*.py",
        "modelium/gateway/proxy/*.py",
        "modelium/gateway/access/*.py",
        "modelium/gateway/api/*.py",
    ),
    "planner": ("agents/rules/*.py", "agents/brain.py"),
    "llm": ("agents/llm/*.py",),
    "estimator": ("modelium/analysis/memory/*.py", "modelium/analysis/architecture/*.py"),
    "safety": (
        "modelium/analysis/checks/*.py",
        "modelium/analysis/readers/*.py",
        "modelium/intake/*.py",
    ),
    "processes": ("runtimes/process/*.py", "runtimes/engines/*.py", "runtimes/loading/*.py"),
}


def group_files(root: Path) -> dict[str, list[Path]]:
    """Return the files of each group, relative to ``root``."""
    return {
        group: sorted(path.relative_to(root) for pattern in patterns for path in root.glob(pattern))
        for group, patterns in GROUPS.items()
    }
