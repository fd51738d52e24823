"""What one drop's staging folder holds: the drop as it came, what was made of it, parts."""

from __future__ import annotations

from pathlib import Path

from modelium.intake.moving import COPYING, TAKEN
from modelium.intake.origin import ORIGIN

ORIGINAL = ".original"
"""Beside a staged drop: the drop as it came, until what is staged is whole and this user's own.
An archive stays there."""


def original_in(own: Path) -> Path | None:
    """Return the drop as it came, where it is whole and still here."""
    try:
        found = [e for e in (own / ORIGINAL).iterdir() if not e.name.startswith((COPYING, TAKEN))]
    except OSError:
        return None
    return found[0] if found else None


def only_in(own: Path) -> Path:
    """Return what a staging folder holds that says nothing of its origin."""
    found = [e for e in own.iterdir() if e.name != ORIGIN and not e.name.startswith(".")]
    return found[0] if found else own / ORIGINAL / "nothing"


def parts_in(own: Path) -> list[Path]:
    """Return the parts of a drop in a staging folder."""
    places = (own, own / ORIGINAL)
    return [
        entry
        for place in places
        if place.is_dir()
        for entry in place.iterdir()
        if entry.name.startswith(COPYING) and (not entry.is_dir() or any(entry.iterdir()))
    ]
