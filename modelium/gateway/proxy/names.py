"""What clients call models: names, names with a version, and the operator's aliases (no I/O)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """A model as a request names it."""

    model: str
    version: int | None = None
    """``None``: whichever there is."""


class Names:
    """Resolves what a client wrote; whether there is such a model is the switchboard's to say."""

    def __init__(self, *, aliases: Mapping[str, str]) -> None:
        """``aliases``: what clients may write → ``NAME`` or ``NAME:VERSION``."""
        self._aliases = {alias: _parsed(target) for alias, target in aliases.items()}

    @property
    def aliases(self) -> Mapping[str, Named]:
        """All aliases and what they stand for."""
        return self._aliases

    def resolve(self, written: str) -> Named:
        """Return what ``written`` stands for. An alias goes before a model of the same name."""
        return self._aliases.get(written) or _parsed(written)


def _parsed(written: str) -> Named:
    name, colon, version = written.rpartition(":")
    # More digits than this are no version that anything ever registered.
    if colon and version.isascii() and version.isdecimal() and len(version) < 10:
        return Named(model=name, version=int(version))
    return Named(model=written)
