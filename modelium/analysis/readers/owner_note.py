"""Reads the note that whoever drops a model may put beside its files.

The note is data. It never refuses a drop: what is not understood is named, and left out.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelium.analysis.readers.folder import shown
from modelium.models import Priority, RuntimeName, Wishes
from modelium.models.wishes import MAX_CONTEXT, MAX_TEXT

NOTE = "modelium.toml"
MAX_BYTES = 16 * 1024
"""A note has a handful of lines."""

MAX_NAME = 128
MAX_UNKNOWN = 8
"""Unknown keys that are named."""

Read = Callable[[Any], Any]
"""Returns the wish in a value; raises `ValueError` with what is allowed."""


def owner_note(folder: Path) -> Wishes | None:
    """Return what the note in ``folder`` asks for; ``None``: there is none.

    Whatever is wrong with it is in `Wishes.problems`. A link is not followed.
    """
    try:
        data = _read(folder / NOTE)
    except FileNotFoundError:
        return None
    except OSError as exc:
        return _nothing(f"cannot be read ({exc.strerror or type(exc).__name__})")
    if data is None:
        return _nothing("is not a plain file")
    if len(data) > MAX_BYTES:
        return _nothing(f"is larger than {MAX_BYTES} bytes")
    try:
        found = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as exc:
        return _nothing(f"is not valid TOML ({shown(str(exc))})")
    return _wishes(found)


def _nothing(why: str) -> Wishes:
    return Wishes(problems=(f"{NOTE} {why}, so nothing in it counts",))


def _read(path: Path) -> bytes | None:
    """Return the start of the file at ``path``; ``None``: it is no plain file."""
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(opened, "rb") as file:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            return None
        return file.read(MAX_BYTES + 1)


def _wishes(found: dict[str, Any]) -> Wishes:
    known: dict[str, Any] = {}
    problems = []
    for key, read in _READ.items():
        if key not in found:
            continue
        try:
            known[_FIELDS.get(key, key)] = read(found.pop(key))
        except ValueError as exc:
            found.pop(key, None)
            problems.append(f"{key} is left out: {exc}")
    unknown = [shown(repr(key), limit=40) for key in sorted(found)]
    if unknown:
        more = f" and {len(unknown) - MAX_UNKNOWN} more" if len(unknown) > MAX_UNKNOWN else ""
        problems.append(
            f"unknown keys: {', '.join(unknown[:MAX_UNKNOWN])}{more}; known keys are "
            f"{', '.join(_READ)}"
        )
    return Wishes(**known, problems=tuple(problems))


def _team(given: Any) -> str:
    if not isinstance(given, str) or not 0 < len(given) <= MAX_NAME or not given.isprintable():
        raise ValueError(f"a team is a name of up to {MAX_NAME} characters")
    return given


def _priority(given: Any) -> Priority:
    try:
        return Priority(given)
    except ValueError:
        raise ValueError(f"priority is {', '.join(Priority)}") from None


def _runtime(given: Any) -> RuntimeName:
    try:
        return RuntimeName(given)
    except ValueError:
        raise ValueError(f"runtimes are {', '.join(RuntimeName)}") from None


def _context(given: Any) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or not 0 < given <= MAX_CONTEXT:
        raise ValueError("context is a number of tokens above 0")
    return given


def _text(given: Any) -> str:
    if not isinstance(given, str) or len(given) > MAX_TEXT:
        raise ValueError(f"wishes is a text of up to {MAX_TEXT} characters")
    return "".join(c if c.isprintable() or c == "\n" else " " for c in given)


_READ: dict[str, Read] = {
    "team": _team,
    "priority": _priority,
    "context": _context,
    "runtime": _runtime,
    "wishes": _text,
}
_FIELDS = {"wishes": "text"}
"""Key in the note → field of `Wishes`, where they differ."""
