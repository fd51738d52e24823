"""The folder of rejected drops: each in a folder of its own, with the reason beside it."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from modelium.errors import DropRejected, InputError
from modelium.intake.moving import COPYING, TAKEN, clear
from modelium.intake.names import REASON
from modelium.intake.removal import remove_quietly
from modelium.models.teams import named

MAX_ALIKE = 100_000
"""Rejected drops of one name."""


class KeptApart(DropRejected):
    """The refused drop is with the rejected ones: at its path there is a newer one by now."""


class Rejects:
    """What is kept of rejected drops. Every call blocks."""

    def __init__(self, *, folder: Path) -> None:
        """Keep them in ``folder``."""
        self.folder = folder

    def make(
        self,
        name: str,
        error: DropRejected,
        *,
        digest: str = "",
        asked: Mapping[str, str | None] | None = None,
    ) -> Path:
        """Return a new folder for the rejected drop ``name``, with the reason in it."""
        # The reason is first: a drop without one would not be listed.
        target = _free(self.folder / re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100])
        target.mkdir()
        reason = {
            "model": name,
            "reason": error.reason,
            "message": str(error),
            "approvable": error.approvable,
            "digest": digest,
            "at": time.time(),
            **(asked or {}),
        }
        try:
            (target / REASON).write_text(json.dumps(reason, indent=2) + "\n")
        except OSError:
            drop_empty(target)
            raise
        return target

    def all(self) -> Iterator[tuple[Path, dict[str, object]]]:
        """Yield the folder and reason of every rejected drop."""
        for folder in self.folder.iterdir():
            try:
                reason = _reason_in(folder)
                if _drops_in(folder):
                    yield folder, reason
            except (OSError, ValueError):
                continue

    def find(self, name: str, *, team: str | None = None) -> tuple[Path, dict[str, object]]:
        """Return the rejected drop ``name``: its folder, and `REASON` as a dict.

        Args:
            name: of the folder; else of the model, whose newest drop it is.
            team: whose drop; empty: one of no team; ``None``: that of the only one that has any.

        Raises:
            InputError: there is none, ``team`` is needed to tell whose is meant, or the folder,
                since drops of the model with different content were rejected.
        """
        found = [
            (folder, reason)
            for folder, reason in sorted(self.all(), key=lambda item: -item[0].stat().st_mtime)
            if name in (reason.get("model"), folder.name)
            if team is None or team == (team_in(reason) or "")
        ]
        if not found:
            of = f" of team {team}" if team else ""
            raise InputError(
                f"no rejected drop{of} is called {name!r}; they are listed in {self.folder}"
            )
        teams = {team_in(reason) or "" for _folder, reason in found}
        if len(teams) > 1:
            whose = " and ".join(map(named, sorted(teams)))
            raise InputError(
                f"drops called {name!r} of {whose} were rejected; say whose is meant: `--team TEAM`"
                ", or `--team ''` for that of no team"
            )
        exact = [each for each in found if each[0].name == name]
        if not exact and len({reason.get("digest") for _folder, reason in found}) > 1:
            folders = ", ".join(sorted(folder.name for folder, _reason in found))
            raise InputError(
                f"several drops called {name!r} were rejected; name the folder of the one that is "
                f"meant: {folders}"
            )
        return (exact or found)[0]

    def team_of(self, folder: Path) -> str | None:
        """Return the team of the rejected drop in ``folder``."""
        try:
            return team_in(_reason_in(folder))
        except (OSError, ValueError):
            return None

    def recover(self) -> None:
        """Delete what a crash has left: parts of copies, and reasons whose drop never came."""
        clear(self.folder)
        for folder in list(self.folder.iterdir()):
            if folder.is_dir() and (folder / REASON).is_file():
                clear(folder)
                drop_empty(folder)


def _reason_in(folder: Path) -> dict[str, object]:
    """Return what `REASON` says in ``folder``; raises `OSError` or `ValueError` if it cannot."""
    reason = json.loads((folder / REASON).read_text())
    if not isinstance(reason, dict):
        raise ValueError(f"{REASON} is no object")
    return reason


def team_in(reason: Mapping[str, object]) -> str | None:
    """Return the team of a rejected drop, as its `REASON` has it."""
    team = reason.get("team")
    return team if isinstance(team, str) and team else None


def only_drop(folder: Path) -> Path:
    """Return the drop in the folder of a rejected one.

    Raises:
        InputError: the folder does not hold exactly one drop and its reason.
    """
    entries = _drops_in(folder)
    if len(entries) != 1:
        raise InputError(
            f"{folder} holds {len(entries)} drops instead of one beside {REASON}; "
            "move the one to retry into the drop zone"
        )
    return entries[0]


def drop_empty(target: Path) -> None:
    """Delete the folder of a rejected drop that is not there."""
    if not _drops_in(target):
        remove_quietly(target)


def _drops_in(folder: Path) -> list[Path]:
    """Return what lies beside a reason."""
    return [
        entry
        for entry in folder.iterdir()
        if entry.name != REASON and not entry.name.startswith((COPYING, TAKEN))
    ]


def _free(path: Path) -> Path:
    """Return ``path``, or the first ``path-N`` that does not exist."""
    for number in range(1, MAX_ALIKE + 1):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        if not os.path.lexists(candidate):
            return candidate
    raise InputError(
        f"{MAX_ALIKE} entries are called {path.name}; delete old ones in {path.parent}"
    )
