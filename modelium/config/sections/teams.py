"""The ``teams`` section: what each team may use, and how it counts in the queue."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict

from modelium.config.fields import Section, Switch, note, setting
from modelium.models import Priority

Gibibytes = Annotated[float, Strict(), Field(gt=0), note(unit="GiB")]
GpuSeconds = Annotated[float, Strict(), Field(gt=0), note(unit="GPU-seconds per 24 h")]
Weight = Annotated[float, Strict(), Field(gt=0, le=1000), note(unit="relative")]


class TeamEntry(Section):
    """One team. What is dropped into its folder in the drop zone belongs to it."""

    memory_quota_gib: Gibibytes | None = setting(
        None,
        "Device memory that the loaded models of the team may hold together. At the quota, a load "
        "makes room among the team's own models, or waits.",
        why="Null: only the devices limit it.",
    )
    gpu_seconds_per_day: GpuSeconds | None = setting(
        None,
        "GPU-seconds that the team's models may use within 24 hours: the share of a device's "
        "memory that a model holds, times seconds. Beyond it nothing more of the team is loaded, "
        "and what is loaded makes room for queued models of other teams.",
        why="Null: no limit. 86400 is one whole GPU.",
    )
    weight: Weight = setting(
        1.0,
        "Share of the team in the queue: between teams, within a priority class, the one that has "
        "used least for its weight is served first.",
        why="1: all teams have equal shares.",
    )
    priority_ceiling: Priority | None = setting(
        None,
        "Highest priority class of the team's models, where `models` sets none for a model.",
        why="Null: `high` for `high_priority_teams`, else `medium`, so that a wish in a drop does "
        "not make it production.",
    )
    claimable: Switch = setting(
        False,
        "Whether the `modelium.toml` of a drop outside the team's folder may name the team.",
        why="False: anybody who can drop could use the team's quota; its folder has permissions.",
    )
