"""What a worker is told first (no I/O here)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from modelium import config


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """How a worker answers clients; as a frame it has the secrets of the configuration."""

    gateway: Mapping[str, Any]
    """The configuration's section, whose `workers` divide the limits; see `section_of`."""
    folder: str
    """Of the socket by which it reaches the service."""
    important_teams: list[str]
    max_tokens: Mapping[str, int]
    max_body_bytes: int
    grace_s: float
    """How long it finishes requests in when it is stopped."""
    logs: bool
    """Whether the service wants to know of answered requests."""
    logs_forwarded: bool
    shared: bool
    """Whether other nodes share the store, and so may forward requests."""
    level: int
    """Of the log."""

    def frame(self) -> dict[str, Any]:
        """Return it as the arguments of its constructor."""
        return asdict(self)


def section_of(gateway: config.Gateway) -> dict[str, Any]:
    """Return ``gateway`` as JSON that validates to the same, secrets included."""
    return {name: _plain(value) for name, value in gateway.model_dump().items()}


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return str(value) if isinstance(value, Path) else value
