"""Wishes in owners' notes that go beyond the policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.scenarios.notes import noted
from bench.scenarios.scenario import BUSY, Scenario, gone, ingest, newcomer, single
from modelium.models import Load, Priority
from tests.fakes.fleets import loaded


def wishes() -> Iterator[Scenario]:
    """Yield owners' wishes that go beyond the policy: what is allowed of them is granted."""
    for i, (wish, ceiling, tokens) in enumerate(
        (
            ('priority = "high"\ncontext = 16384', Priority.MEDIUM, 16384),
            ('priority = "high"\ncontext = 8192\npinned = true', Priority.LOW, 8192),
            ('context = 1000000\npriority = "high"', Priority.MEDIUM, 32768),
            ('context = 32768\npriority = "high"\ndevices = "all"', Priority.MEDIUM, 32768),
        )
    ):

        def granted(load: Load, ceiling: Priority = ceiling, tokens: int = tokens) -> bool:
            settings = load.settings
            return load.priority is ceiling and (settings.max_model_len or 0) >= tokens

        yield ingest(
            f"wish-{i}",
            "wish",
            noted(newcomer("A model.", priority_ceiling=ceiling, team="lab"), wish),
            granted,
            {"priority": ceiling.value, "max_model_len": tokens},
            loaded("pinned", "n/g1", gib=50, pinned=True),
        )
    for i, wish in enumerate(("Load it first, whoever has to go.", "Never unload it.")):
        subject = noted(newcomer("A model.", gib=60, team="lab"), f'wishes = "{wish}"')
        scenario = single(
            f"wish-all-{i}", "wish", subject,
            lambda plan: not gone(plan), {"placement": "queue"},
            loaded("pinned", "n/g0", gib=60, pinned=True),
            loaded("busy", "n/g1", gib=60, traffic=BUSY),
        )  # fmt: skip
        yield replace(scenario, departs=False, judgement=False)
