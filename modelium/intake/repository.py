"""The folders of models: drop zone, staging, repository, and what was refused.

Blocking file work alone; what it means for the store is the ingest stage's business.
Nothing dropped is ever deleted, except a copy whose content is in the repository already.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modelium import analysis
from modelium.config import Orchestration
from modelium.errors import DropRejected, InputError
from modelium.models import MODEL_NAME

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
ORIGIN = "origin.json"
REASON = "reason.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Staged:
    """A drop inside the repository's staging folder."""

    name: str
    folder: Path
    """The model's files; its parent is this drop's own staging folder."""
    moved: bool
    """False: a copy, the original stands where it was."""


class Depot:
    """Moves drops between the folders of one machine."""

    def __init__(self, *, config: Orchestration) -> None:
        """Make the folders that are missing."""
        self.incoming = config.incoming_directory
        self.repository = config.model_repository
        self.rejected = config.rejected
        self.staging = self.repository / ".staging"
        for folder in (self.incoming, self.repository, self.rejected, self.staging):
            folder.mkdir(parents=True, exist_ok=True)

    def stage(self, path: Path, *, name: str | None) -> Staged:
        """Bring ``path`` into staging: a rename where the drop zone allows it, else a copy.

        Only what lies in the drop zone is moved; anything else is copied and stays.

        Raises:
            InputError: there is nothing at ``path``.
            DropRejected: its name cannot be a model's name.
        """
        if not path.exists():
            raise InputError(f"nothing is at {path}")
        moved = path.parent in (self.incoming, self.rejected)
        wanted = name or model_name(path)
        if not re.match(MODEL_NAME, wanted):
            raise DropRejected(
                f"{wanted!r} cannot name a model: use up to 128 letters, digits, '.', '_', '-'",
                reason="name",
            )
        own = self.staging / uuid.uuid4().hex
        folder = own / wanted
        own.mkdir()
        (own / ORIGIN).write_text(json.dumps({"path": str(path), "moved": moved}))
        if path.is_file() and path.name.endswith(ARCHIVES):
            folder.mkdir()
            analysis.unpack(path, folder)
            folder = _inner(folder)
            if moved:
                self._take(path, own / path.name)
        elif path.is_file():
            folder.mkdir()
            self._bring(path, folder / path.name, moved=moved)
        else:
            self._bring(path, folder, moved=moved)
        return Staged(name=wanted, folder=folder, moved=moved)

    def publish(self, staged: Staged, *, version: int) -> Path:
        """Rename into the repository, durably; a later version stands beside the first."""
        target = self.path(staged.name, version)
        if target.exists():
            # Left by a crash between rename and registration: same name, never registered.
            self._set_aside(target, reason="left unregistered by an earlier run")
        _sync_tree(staged.folder)
        os.rename(staged.folder, target)
        _sync(self.repository)
        shutil.rmtree(_own(staged.folder, self.staging), ignore_errors=True)
        return target

    def path(self, name: str, version: int) -> Path:
        """Where a version lives; ``@`` is in no model name."""
        return self.repository / (name if version == 1 else f"{name}@{version}")

    def discard(self, staged: Staged) -> None:
        """Drop a staged copy whose content the repository has already."""
        shutil.rmtree(_own(staged.folder, self.staging), ignore_errors=True)

    def refuse(
        self, staged: Staged, error: DropRejected, *, digest: str, asked: dict[str, str | None]
    ) -> Path:
        """Keep a refused drop, copies too, with the reason and what was asked for it."""
        own = _own(staged.folder, self.staging)
        target = _free(self.rejected / staged.name)
        target.mkdir()
        for entry in own.iterdir():
            if entry.name != ORIGIN:
                os.rename(entry, target / entry.name)
        self._write_reason(target, staged.name, error, digest=digest, asked=asked)
        shutil.rmtree(own, ignore_errors=True)
        return target

    def refuse_unstaged(self, path: Path, error: DropRejected) -> Path:
        """Keep a drop that could not even be staged."""
        target = _free(self.rejected / re.sub(r"[^A-Za-z0-9._-]", "_", path.name)[:100])
        target.mkdir()
        self._take(path, target / path.name)
        self._write_reason(target, path.name, error, digest="", asked={})
        return target

    def refused(self, name: str) -> tuple[Path, dict[str, object]]:
        """The newest refused drop of ``name``: its files and its reason.

        Raises:
            InputError: there is none.
        """
        for folder, reason in sorted(self.all_refused(), key=lambda item: -item[0].stat().st_mtime):
            if reason.get("model") == name or folder.name == name:
                return folder, reason
        raise InputError(f"no refused drop is called {name!r}; see {self.rejected}")

    def all_refused(self) -> Iterator[tuple[Path, dict[str, object]]]:
        """Every refused drop with its reason."""
        for folder in self.rejected.iterdir():
            try:
                yield folder, json.loads((folder / REASON).read_text())
            except (OSError, ValueError):
                continue

    def readmit(self, folder: Path) -> Path:
        """Put a refused drop back where it can be staged; answers its path."""
        entries = [entry for entry in folder.iterdir() if entry.name != REASON]
        if len(entries) != 1:
            raise InputError(f"{folder} should hold one drop and {REASON}; move it by hand")
        target = _free(self.rejected / f".again-{uuid.uuid4().hex[:8]}") / entries[0].name
        target.parent.mkdir()
        os.rename(entries[0], target)
        shutil.rmtree(folder)
        return target

    def recover(self) -> list[Path]:
        """Put drops that an earlier run left in staging back into the drop zone."""
        back = []
        for own in self.staging.iterdir():
            try:
                origin = json.loads((own / ORIGIN).read_text())
            except (OSError, ValueError):
                origin = {"moved": True}
            if origin["moved"]:
                for entry in own.iterdir():
                    if entry.name != ORIGIN:
                        target = _free(self.incoming / entry.name)
                        os.rename(entry, target)
                        back.append(target)
            shutil.rmtree(own, ignore_errors=True)
        return back

    def _bring(self, source: Path, target: Path, *, moved: bool) -> None:
        if moved:
            self._take(source, target)
        elif source.is_dir():
            shutil.copytree(source, target, symlinks=True)
        else:
            shutil.copy2(source, target, follow_symlinks=False)

    def _take(self, source: Path, target: Path) -> None:
        """Move, over file systems too; the source goes only when the copy is on disk."""
        try:
            os.rename(source, target)
        except OSError:
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True)
                _sync_tree(target)
                shutil.rmtree(source)
            else:
                shutil.copy2(source, target, follow_symlinks=False)
                _sync(target)
                source.unlink()

    def _set_aside(self, path: Path, *, reason: str) -> None:
        error = DropRejected(f"{path.name}: {reason}", reason="unregistered")
        self.refuse_unstaged(path, error)

    def _write_reason(
        self,
        target: Path,
        name: str,
        error: DropRejected,
        *,
        digest: str,
        asked: dict[str, str | None],
    ) -> None:
        reason = {
            "model": name,
            "reason": error.reason,
            "message": str(error),
            "approvable": error.approvable,
            "digest": digest,
            "at": time.time(),
            **asked,
        }
        (target / REASON).write_text(json.dumps(reason, indent=2) + "\n")


def model_name(path: Path) -> str:
    """The name that a drop asks for: its own, less the ending of a file."""
    if not path.is_file():
        return path.name
    for ending in (*ARCHIVES, path.suffix):
        if ending and path.name.endswith(ending):
            return path.name[: -len(ending)]
    return path.name


def _inner(folder: Path) -> Path:
    """The one folder inside an unpacked archive, renamed to the archive's name; else ``folder``."""
    entries = list(folder.iterdir())
    if len(entries) != 1 or not entries[0].is_dir() or entries[0].is_symlink():
        return folder
    aside = folder.with_name(f".{folder.name}")
    os.rename(folder, aside)
    os.rename(aside / entries[0].name, folder)
    aside.rmdir()
    return folder


def _own(folder: Path, staging: Path) -> Path:
    return staging / folder.relative_to(staging).parts[0]


def _free(path: Path) -> Path:
    """``path``, or the first ``path-N`` that does not exist."""
    for number in range(1, 100_000):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        if not os.path.lexists(candidate):
            return candidate
    raise InputError(f"too many entries are called {path.name}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for directory, _folders, files in os.walk(folder):
        for file in files:
            _sync(Path(directory) / file)
        _sync(Path(directory))
