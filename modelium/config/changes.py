"""What a new configuration changes in a running service, and what has to wait for a restart.

No I/O here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, SecretStr

from modelium.config.fields import FieldPath, Section
from modelium.config.lookup import find, is_secret
from modelium.config.schema import Config

T = TypeVar("T", bound=BaseModel)

LIVE: tuple[FieldPath, ...] = (
    ("orchestration", "enabled"),
    ("orchestration", "policies"),
    ("orchestration", "metrics", "collection_interval_seconds"),
    ("orchestration", "metrics", "history_retention_days"),
    ("orchestration", "metrics", "request_log_retention_days"),
    ("ingest", "incomplete_after_seconds"),
    ("ingest", "keep_versions"),
    ("ingest", "min_free_gib"),
    ("ingest", "trash_retention_days"),
    ("gateway", "aliases"),
    ("gateway", "default_max_tokens"),
    ("gateway", "drain_grace_seconds"),
    ("gateway", "max_wait_seconds"),
    ("gateway", "max_waiting"),
    ("gateway", "max_waiting_per_model"),
    ("brain", "authority"),
    ("brain", "may"),
    ("brain", "time_zone"),
    ("brain", "review_interval_seconds"),
    ("models",),
    ("teams",),
)
"""Fields, and sections with all their fields, that take effect without a restart."""

LONGEST = 120
"""Characters of a value in a message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A field whose value in the file is not the one in force."""

    path: FieldPath
    running: str
    wanted: str
    """Both as text; secrets are hidden."""
    live: bool
    """Whether it takes effect without a restart."""

    @property
    def field(self) -> str:
        """Its path as users write it."""
        return ".".join(self.path)

    def __str__(self) -> str:
        if self.live:
            return f"{self.field}: {self.running} → {self.wanted}"
        return f"{self.field} needs a restart: still {self.running}"


def changes(running: Config, wanted: Config) -> list[Change]:
    """Return every field in which ``wanted`` differs from ``running``."""
    return list(_changes((), running, wanted))


def merged(running: Config, wanted: Config) -> Config:
    """Return ``running`` with the fields of ``wanted`` that take effect without a restart."""
    return _merged((), running, wanted)


def is_live(path: FieldPath) -> bool:
    """Whether ``path`` takes effect without a restart."""
    return any(path[: len(live)] == live for live in LIVE)


def _merged(path: FieldPath, running: T, wanted: T) -> T:
    fresh: dict[str, Any] = {}
    for name in type(running).model_fields:
        here, old, new = (*path, name), getattr(running, name), getattr(wanted, name)
        if is_live(here):
            fresh[name] = new
        elif isinstance(old, Section):
            fresh[name] = _merged(here, old, new)
    return running.model_copy(update=fresh)


def _changes(path: FieldPath, old: Any, new: Any) -> Iterator[Change]:
    if old == new:
        return
    if isinstance(old, Section) or isinstance(new, Section):
        kind = type(old) if isinstance(old, Section) else type(new)
        # A model that is named, or no longer named, differs from the defaults.
        old, new = (kind() if side is None else side for side in (old, new))
        for name in kind.model_fields:
            yield from _changes((*path, name), getattr(old, name), getattr(new, name))
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            yield from _changes((*path, name), old.get(name), new.get(name))
    else:
        yield Change(
            path=path, running=_text(path, old), wanted=_text(path, new), live=is_live(path)
        )


def _text(path: FieldPath, value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, SecretStr) or _hidden(path):
        return "(hidden)"
    if isinstance(value, frozenset):
        value = sorted(value)
    shown = value if isinstance(value, str) else json.dumps(value, default=str)
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"


def _hidden(path: FieldPath) -> bool:
    """Whether the field at ``path``, or a mapping that holds it, is secret."""
    schemas = (find(path[:depth]) for depth in range(1, len(path) + 1))
    return any(schema is not None and is_secret(schema) for schema in schemas)
