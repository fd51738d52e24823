"""The ``models`` section: what the operator sets for single models."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ValidationError

from modelium.config.fields import PositiveCount, Refused, Section, Switch, Text, note, setting
from modelium.config.sections.runtimes import Settings
from modelium.models import LoadSettings, Priority
from modelium.models.settings import RESERVED, split

MAX_TEXT = 65536
"""Characters of one setting: chat templates are files, so longer ones are mistakes."""


def _written(given: object) -> object:
    """Write mappings and lists as JSON, as engines take them on their command line."""
    if not isinstance(given, dict):
        return given
    return {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in given.items()}


def _possible(given: Settings) -> Settings:
    """Refuse what no load can have.

    Raises:
        Refused: a name that the driver sets itself, a value out of bounds.
    """
    names = {name.replace("-", "_").lstrip("_") for name in given}
    if refused := sorted(names & (RESERVED | {"extra", "extra_kv_bytes"})):
        raise Refused(
            f"{', '.join(refused)} cannot be set for a model: Modelium sets it for each load"
        )
    long = sorted(k for k, v in given.items() if isinstance(v, str) and len(v) > MAX_TEXT)
    if long:
        raise Refused(f"{', '.join(long)} is longer than {MAX_TEXT} characters")
    known, _extra = split(given)
    try:
        LoadSettings.model_validate(known)
    except ValidationError as exc:
        first = exc.errors()[0]
        raise Refused(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return given


ModelSettings = Annotated[Settings, BeforeValidator(_written), AfterValidator(_possible)]


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
    nodes: tuple[Text, ...] = setting(
        (),
        "Machines that may load the model: names, or `label=value` of which one must hold.",
        why="Empty: any machine.",
    )
    max_tokens: Annotated[PositiveCount, note(unit="tokens")] | None = setting(
        None,
        "Longest answer of this model for a request that sets no limit of its own.",
        why="Null: `gateway.default_max_tokens` applies.",
    )
    settings: ModelSettings = setting(
        {},
        "Load settings and engine arguments of this model, which precede the runtime's "
        "`default_settings`, e.g. max_model_len, kv_cache_bytes, tool_call_parser, hf_overrides.",
        why="Empty: the runtime's settings and what is known of the model's family apply.",
    )
    approvals: frozenset[Literal["remote-code", "pickle"]] = setting(
        frozenset(),
        "Risks that are accepted for this model only.",
        why="None: a model folder is not trusted until somebody has reviewed it.",
    )
