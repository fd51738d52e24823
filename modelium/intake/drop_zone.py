"""The drop zone's folders: its own, and one per declared team."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from modelium.analysis.readers.owner_note import NOTE

logger = logging.getLogger(__name__)

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

    def team_of(self, path: Path) -> str | None:
        """Return the team in whose folder the drop ``path`` lies."""
        return path.parent.name if self._is_team_folder(path.parent) else None

    def place(self, path: Path, *, team: str = "") -> Path:
        """Return the folder of the drop zone where a drop of ``team`` from ``path`` belongs.

        It is the one that it came from; else the team's, or the drop zone's own.
        """
        if self._is_team_folder(path.parent):
            return path.parent
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
        """Create the teams' folders that are missing; one that cannot be is logged."""
        for team in sorted(self.teams):
            folder = self.team_folder(team)
            try:
                if not os.path.lexists(folder):
                    folder.mkdir()
            except OSError as exc:
                logger.warning("the drop folder of team %s cannot be made: %s", team, exc)

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


def _of_a_model(name: str) -> bool:
    return name in OF_A_MODEL or name.endswith(WEIGHTS)
