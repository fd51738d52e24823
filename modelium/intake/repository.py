"""The model repository and the folders around it: drop zone, staging, rejected drops.

A drop moves from the drop zone to staging, and from there to the repository or, with a reason
beside it, to the rejected drops. Every call blocks on file operations: call it off the event loop.
No drop is ever deleted, except a copy whose content is already in the repository, and what an
operator removed: see `modelium.intake.trash`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from modelium.config import Orchestration
from modelium.config.folders import make
from modelium.errors import DropRejected
from modelium.intake.drop_zone import DropZone
from modelium.intake.moving import clear, move, sync, sync_tree
from modelium.intake.names import REASON
from modelium.intake.rejects import Rejects, drop_empty, only_drop
from modelium.intake.staging import Staged, Staging
from modelium.intake.trash import Trash

TRASH = ".trash"
"""In the repository: files of what was removed."""


class ModelRepository:
    """The published models of this machine, with staging and the rejected drops."""

    def __init__(
        self, *, config: Orchestration, teams: Iterable[str] = (), shared: bool = False
    ) -> None:
        """Create the folders that are missing.

        Args:
            config: which folders.
            teams: those with a folder in the drop zone.
            shared: whether other machines have the same folders. Staging is then this one's own.

        Raises:
            ConfigError: one cannot be created or written to.
        """
        self.incoming = config.incoming_directory
        self.published = config.model_repository
        self.rejected = config.rejected
        make("orchestration.model_repository", self.published)
        make("orchestration.incoming_directory", self.incoming)
        make("orchestration.rejected_directory", self.rejected)
        self.zone = DropZone(folder=self.incoming, teams=teams)
        self.zone.make()
        self.trash = Trash(folder=self.published / TRASH)
        self._rejects = Rejects(folder=self.rejected)
        own = f"-{config.node}" if shared else ""
        self.downloads = self.published / f".downloads{own}"
        self._staging = Staging(
            folder=self.published / f".staging{own}",
            zone=self.zone,
            rejects=self._rejects,
            trash=self.trash.folder,
            downloads=self.downloads,
        )
        self.staging = self._staging.folder

    def stage(self, path: Path, *, name: str | None, team: str | None = None) -> Staged:
        """See `Staging.stage`."""
        return self._staging.stage(path, name=name, team=team)

    def team_of(self, path: Path) -> str | None:
        """Return whose drop is at ``path``: by its folder, or the reason or note beside it.

        ``None``: an operator's, or a path of anybody's.
        """
        if path.parent.parent == self.rejected:
            return self._rejects.team_of(path.parent)
        if path.parent.parent == self.trash.folder:
            return self.trash.team_of(path.parent)
        return self.zone.team_of(path)

    def located(self, path: Path) -> tuple[Path, Path | None]:
        """Return ``path`` without links, and which of Modelium's folders it is in or holds.

        In one of them, it begins with the name by which Modelium knows that folder.
        """
        real = path.resolve()
        for folder in (self.incoming, self.rejected, self.published):
            root = folder.resolve()
            if real.is_relative_to(root):
                return folder / real.relative_to(root), folder
            if root.is_relative_to(real):
                return real, folder
        return real, None

    def publish(self, staged: Staged, *, version: int) -> Path:
        """Move a staged drop into the repository, synced to disk; return its path there.

        Later versions lie beside the first one.
        """
        target = self.path(staged.name, version)
        sync_tree(staged.folder)
        os.rename(staged.folder, target)
        sync(self.published)
        self.discard(staged)
        return target

    def free_version(self, name: str, version: int) -> int:
        """Return ``version``, or the next one whose path is free.

        What lies there unregistered, put there or left by a crash, is `control.adoption`'s.
        """
        while os.path.lexists(self.path(name, version)):
            version += 1
        return version

    def path(self, name: str, version: int) -> Path:
        """Return the path of a published version; no model name contains ``@``."""
        return self.published / (name if version == 1 else f"{name}@{version}")

    def give_back(self, staged: Staged) -> None:
        """Return a staged drop that could not be published to the drop zone; delete a copy."""
        self._staging.give_back(staged)

    def discard(self, staged: Staged) -> None:
        """Delete a drop's staging folder with what is left in it."""
        self._staging.discard(staged)

    def reject(
        self, staged: Staged, error: DropRejected, *, digest: str, asked: dict[str, str | None]
    ) -> Path:
        """Move a staged drop, also a copy, to the rejected drops, with the reason beside it.

        ``asked``: the options that the drop came with, for a later approval.
        """
        target = self._rejects.make(staged.name, error, digest=digest, asked=asked)
        try:
            self._staging.reject(staged, target)
        except (OSError, DropRejected):
            drop_empty(target)
            raise
        return target

    def reject_unstaged(self, path: Path, error: DropRejected) -> Path | None:
        """Move a drop that could not be staged to the rejected drops, with the reason beside it.

        ``None``: it stays in its place. Nothing outside of the drop zone is ever moved, and a
        drop that cannot be copied stays where the rejected drops are on another file system.
        """
        if not self.zone.holds(path):
            return None
        target = self._rejects.make(path.name, error, asked={"team": self.zone.team_of(path)})
        aside = f"{path.name}-drop" if path.name == REASON else path.name
        try:
            with self.zone.entered(path.parent) as folder:
                move(folder / path.name, target / aside)
        except DropRejected:
            drop_empty(target)
            return None
        except OSError:
            drop_empty(target)
            raise
        return target

    def find_rejected(
        self, name: str, *, team: str | None = None
    ) -> tuple[Path, dict[str, object]]:
        """See `Rejects.find`."""
        return self._rejects.find(name, team=team)

    def rejected_drops(self) -> Iterator[tuple[Path, dict[str, object]]]:
        """Yield the folder and reason of every rejected drop."""
        return self._rejects.all()

    def readmit(self, folder: Path) -> Path:
        """Return the path to ingest a rejected drop from; `stage` takes it out of ``folder``.

        Raises:
            InputError: the folder does not hold exactly one drop and its reason.
        """
        return only_drop(folder)

    def recover(self, *, everywhere: bool = True) -> list[Path]:
        """See `Staging.recover`; ``everywhere``: delete what a crash has left elsewhere, too.

        Not where another machine may be copying there now.
        """
        back = self._staging.recover()
        if not everywhere:
            return back
        clear(self.incoming)
        for team in sorted(self.zone.teams):
            with suppress(OSError), self.zone.entered(self.zone.team_folder(team)) as folder:
                clear(folder)
        self._rejects.recover()
        return back
