"""The ``models`` section: what the operator sets for single models."""

from __future__ import annotations

from typing import Annotated, Literal

from modelium.config.fields import PositiveCount, Section, Switch, Text, note, setting
from modelium.models import Priority


class ModelEntry(Section):
    """Settings of one model. Files in its folder cannot change them."""

    team: Text | None = setting(
        None, "Team that owns the model.", why="Null: the model has no owner."
    )
    priority: Priority | None = setting(
        None, "Priority class.", why="Null: derived from the team, see `high_priority_teams`."
    )
    priority_ceiling: Priority = setting(
        Priority.HIGH, "Highest priority class that a plan may assign.", why="High: no limit."
    )
    pinned: Switch = setting(
        False,
        "Whether the model is exempt from eviction.",
        why="False: a pinned model occupies memory even when idle.",
    )
    max_tokens: Annotated[PositiveCount, note(unit="tokens")] | None = setting(
        None,
        "Longest answer of this model for a request that sets no limit of its own.",
        why="Null: `gateway.default_max_tokens` applies.",
    )
    approvals: frozenset[Literal["remote-code", "pickle"]] = setting(
        frozenset(),
        "Risks that are accepted for this model only.",
        why="None: a model folder is not trusted until somebody has reviewed it.",
    )
