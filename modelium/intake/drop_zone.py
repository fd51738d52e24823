"""The drop zone's folders: its own, and one per declared team."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from modelium.analysis.readers.folder import shown
from modelium.analysis.readers.owner_note import NOTE
from modelium.intake.zone import below

logger = logging.getLogger(__name__)

MARK = ".modelium-team"
"""A file in each team's folder: should the team be declared no more, its drops stay drops."""

OF_A_MODEL = frozenset(
    {
        "adapter_config.json",
        "config.json",
        "config.pbtxt",
        "model_index.json",
        "modules.json",
        "serve.yaml",
        "tokenizer.json",
        NOTE,
    }
)
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".plan")
"""Files that lie in the folder of one model, never beside models."""


class DropZone:
    """Tells the drops of a team from those of nobody.

    An entry of the drop zone that bears the name of a declared team is that team's folder, whatever
    is in it, and never a model.
    """

    def __init__(self, *, folder: Path, teams: Iterable[str] = ()) -> None:
        """``folder``: the drop zone; ``teams``: those that are declared."""
        self.folder = folder
        self.teams = frozenset(teams)
        self._unmade: set[str] = set()

    def declare(self, teams: Iterable[str]) -> None:
        """Have ``teams`` be the declared ones from now on."""
        self.teams = frozenset(teams)

    def team_folder(self, team: str) -> Path:
        """Return where the drops of ``team`` lie."""
        return self.folder / team

    def holds(self, path: Path) -> bool:
        """Whether ``path`` is a drop in the drop zone, by its place alone."""
        return self.is_part(path.parent) and not self._is_team_folder(path)

    def is_part(self, folder: Path) -> bool:
        """Whether drops lie in ``folder``: the drop zone itself, or a team's folder."""
        return folder == self.folder or self._is_team_folder(folder)

    def contains(self, path: Path) -> bool:
        """Whether ``path`` leads into the drop zone, however deep, by its names alone."""
        return below(path, self.folder)

    def team_of(self, path: Path) -> str | None:
        """Return the team in whose folder ``path`` lies, however deep."""
        if not self.contains(path):
            return None
        first, *rest = path.relative_to(self.folder).parts
        return first if rest and first in self.teams else None

    def place(self, path: Path, *, team: str = "") -> Path:
        """Return the folder of the drop zone where a drop of ``team`` from ``path`` belongs.

        It is the one that it came from, also where that one's team is gone; else the team's, or the
        drop zone's own. Blocks on the disk.
        """
        if path.parent.parent == self.folder and _is_marked(path.parent):
            return path.parent
        team = self.team_of(path) or team
        return self.team_folder(team) if team in self.teams else self.folder

    @contextmanager
    def entered(self, folder: Path) -> Iterator[Path]:
        """Yield a path to ``folder``, a part of the drop zone, that leads there while inside.

        Droppers may swap a team's folder for a link at any time; the path does not follow.

        Raises:
            OSError: a team's folder is a link, or is gone.
        """
        if folder == self.folder:
            yield folder
            return
        opened = os.open(folder, os.O_DIRECTORY | os.O_NOFOLLOW | getattr(os, "O_PATH", 0))
        try:
            yield Path(f"/proc/self/fd/{opened}")
        finally:
            os.close(opened)

    def make(self) -> None:
        """Create the teams' folders that are missing, and mark all; what fails is logged once."""
        for team in sorted(self.teams):
            try:
                self._make(self.team_folder(team))
                self._unmade.discard(team)
            except OSError as exc:
                if team not in self._unmade:
                    logger.warning("the drop folder of team %s cannot be made: %s", team, exc)
                self._unmade.add(team)

    def _make(self, folder: Path) -> None:
        if not os.path.lexists(folder):
            folder.mkdir()
        if not _is_marked(folder) and not self.closed(folder):
            with self.entered(folder) as inside:
                (inside / MARK).touch(exist_ok=False)

    def orphaned(self, path: Path) -> str:
        """Return why ``path`` is not taken in, and what to do; empty where it may be.

        The folder of a team that is declared no more, and what lies in it, must not become a
        model. Blocks on the disk.
        """
        if not self.contains(path):
            return ""
        depth = len(path.relative_to(self.folder).parts)
        for folder in (path, *path.parents[: depth - 1]):
            if not self.is_part(folder) and _is_marked(folder):
                name = shown(str(folder.relative_to(self.folder)))
                return (
                    f"{name} in the drop zone is marked as the folder of a team, and no such team "
                    "is declared; declare it, or move what lies there to where it belongs and "
                    f"delete the folder (if it is a model, delete {MARK} in it)"
                )
        return ""

    def closed(self, folder: Path) -> str:
        """Return why nothing is taken from ``folder``, and what to do; empty where drops are.

        A team's folder that holds the files of a model was taken for one: what lies in it, such
        as the folders of a pipeline, must not become models. Blocks on the disk.
        """
        if not self._is_team_folder(folder):
            return ""
        team = folder.name
        try:
            if not stat.S_ISDIR(folder.lstat().st_mode):
                return (
                    f"{team} in the drop zone has the name of a team, and is no folder; remove it, "
                    "and the team's folder is made"
                )
            found = sorted(name for name in os.listdir(folder) if _of_a_model(name))
        except OSError as exc:
            return f"the drop folder of team {team} cannot be read: {exc.strerror or exc}"
        if not found:
            return ""
        return (
            f"{team} in the drop zone is the folder for drops of team {team}, and holds files of a "
            f"model ({found[0]}); put them into a folder of their own in it, as {team}/MODEL"
        )

    def _is_team_folder(self, path: Path) -> bool:
        return path.parent == self.folder and path.name in self.teams


def _is_marked(folder: Path) -> bool:
    return os.path.lexists(folder / MARK)


def _of_a_model(name: str) -> bool:
    return name in OF_A_MODEL or name.endswith(WEIGHTS)
