"""Resolves the names that clients use: models, versions and aliases (no I/O here)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelReference:
    """The model, and perhaps the version, that a name refers to."""

    model: str
    version: int | None = None
    """``None``: any."""


class Names:
    """Resolves names; it does not check that the model exists, which the switchboard does."""

    def __init__(self, *, aliases: Mapping[str, str]) -> None:
        """``aliases``: alias → ``NAME`` or ``NAME:VERSION``."""
        self.replace(aliases)

    def replace(self, aliases: Mapping[str, str]) -> None:
        """Have ``aliases`` apply in place of the earlier ones, all at once."""
        self._aliases = {alias: _parsed(target) for alias, target in aliases.items()}

    @property
    def aliases(self) -> Mapping[str, ModelReference]:
        """All aliases and their targets."""
        return self._aliases

    def resolve(self, name: str) -> ModelReference:
        """Return the model that ``name`` refers to. An alias hides a model of the same name."""
        return self._aliases.get(name) or _parsed(name)


def _parsed(written: str) -> ModelReference:
    name, colon, version = written.rpartition(":")
    # No version has more digits than this.
    if colon and version.isascii() and version.isdecimal() and len(version) < 10:
        return ModelReference(model=name, version=int(version))
    return ModelReference(model=written)
