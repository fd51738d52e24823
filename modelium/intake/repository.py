"""The model repository and the folders around it: drop zone, staging, rejected drops.

A drop moves from the drop zone to staging, and from there to the repository or, with a reason
beside it, to the rejected drops. Every call blocks on file operations: call it off the event loop.
No drop is ever deleted, except a copy whose content is already in the repository, and what an
operator removed: see `modelium.intake.trash`.
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
from modelium.config.folders import make
from modelium.errors import DropRejected, InputError
from modelium.intake.trash import Trash
from modelium.models import MODEL_NAME

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
"""Endings of files that are unpacked; other files are models themselves."""
ORIGIN = "origin.json"
"""Beside a staged drop: where it came from, for `ModelRepository.recover`."""
REASON = "reason.json"
"""Beside a rejected drop: the error, and the options that the drop came with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Staged:
    """A drop in the staging folder."""

    name: str
    folder: Path
    """The model's files. Its parent is a staging folder that no other drop uses."""
    moved: bool
    """False: this is a copy, and the original was left in place."""


class ModelRepository:
    """The published models of this machine, with staging and the rejected drops."""

    def __init__(self, *, config: Orchestration) -> None:
        """Create the folders that are missing.

        Raises:
            ConfigError: one cannot be created or written to.
        """
        self.incoming = config.incoming_directory
        self.published = config.model_repository
        self.rejected = config.rejected
        self.staging = self.published / ".staging"
        make("orchestration.model_repository", self.published)
        make("orchestration.incoming_directory", self.incoming)
        make("orchestration.rejected_directory", self.rejected)
        self.staging.mkdir(exist_ok=True)
        self.trash = Trash(folder=self.published / ".trash")

    def stage(self, path: Path, *, name: str | None) -> Staged:
        """Move ``path`` from the drop zone into staging, or copy it from anywhere else.

        An archive is unpacked. ``name``: the model's name; default: `model_name` of ``path``.

        Raises:
            InputError: ``path`` does not exist.
            DropRejected: the name is not a valid model name, or the archive cannot be unpacked.
        """
        if not path.exists():
            raise InputError(f"{path} does not exist; check the path and try again")
        trashed = path.parent.parent == self.trash.folder
        moved = trashed or path.parent in (self.incoming, self.rejected)
        wanted = name or model_name(path)
        if not re.match(MODEL_NAME, wanted):
            raise DropRejected(
                f"{wanted!r} is not a valid model name: use up to 128 letters, digits, '.', '_' "
                "and '-', starting with a letter or digit",
                reason="name",
            )
        own = self.staging / uuid.uuid4().hex
        folder = own / wanted
        own.mkdir()
        (own / ORIGIN).write_text(json.dumps({"path": str(path), "moved": moved}))
        if path.is_file() and path.name.endswith(ARCHIVES):
            try:
                folder.mkdir()
                analysis.unpack(path, folder)
            except BaseException:
                shutil.rmtree(own)  # the archive is in its place, and needs no recovery
                raise
            folder = _inner(folder)
            if moved:
                _move(path, own / path.name)
        elif path.is_file():
            folder.mkdir()
            _move_or_copy(path, folder / path.name, moved=moved)
        else:
            _move_or_copy(path, folder, moved=moved)
        # A copy of a published model brings what Triton needed; a hostile drop may imitate that.
        analysis.unlay(folder)
        return Staged(name=wanted, folder=folder, moved=moved)

    def publish(self, staged: Staged, *, version: int) -> Path:
        """Move a staged drop into the repository, synced to disk; return its path there.

        Later versions lie beside the first one.
        """
        target = self.path(staged.name, version)
        _sync_tree(staged.folder)
        os.rename(staged.folder, target)
        _sync(self.published)
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

    def discard(self, staged: Staged) -> None:
        """Delete a drop's staging folder with what is left in it."""
        shutil.rmtree(self._staging_folder(staged), ignore_errors=True)

    def reject(
        self, staged: Staged, error: DropRejected, *, digest: str, asked: dict[str, str | None]
    ) -> Path:
        """Move a staged drop, also a copy, to the rejected drops, with the reason beside it.

        ``asked``: the options that the drop came with, for a later approval.
        """
        own = self._staging_folder(staged)
        target = _free(self.rejected / staged.name)
        target.mkdir()
        for entry in own.iterdir():
            if entry.name != ORIGIN:
                os.rename(entry, target / entry.name)
        self._write_reason(target, staged.name, error, digest=digest, asked=asked)
        shutil.rmtree(own, ignore_errors=True)
        return target

    def reject_unstaged(self, path: Path, error: DropRejected) -> Path:
        """Move a drop that could not be staged to the rejected drops, with the reason beside it."""
        target = _free(self.rejected / re.sub(r"[^A-Za-z0-9._-]", "_", path.name)[:100])
        target.mkdir()
        _move(path, target / path.name)
        self._write_reason(target, path.name, error, digest="", asked={})
        return target

    def find_rejected(self, name: str) -> tuple[Path, dict[str, object]]:
        """Return the newest rejected drop of ``name``: its folder, and `REASON` as a dict.

        Raises:
            InputError: there is none.
        """
        for folder, reason in sorted(
            self.rejected_drops(), key=lambda item: -item[0].stat().st_mtime
        ):
            if reason.get("model") == name or folder.name == name:
                return folder, reason
        raise InputError(f"no rejected drop is called {name!r}; they are listed in {self.rejected}")

    def rejected_drops(self) -> Iterator[tuple[Path, dict[str, object]]]:
        """Yield the folder and reason of every rejected drop."""
        for folder in self.rejected.iterdir():
            try:
                yield folder, json.loads((folder / REASON).read_text())
            except (OSError, ValueError):
                continue

    def readmit(self, folder: Path) -> Path:
        """Take a rejected drop out of its folder, and return the path to ingest it from.

        Raises:
            InputError: the folder does not hold exactly one drop and its reason.
        """
        entries = [entry for entry in folder.iterdir() if entry.name != REASON]
        if len(entries) != 1:
            raise InputError(
                f"{folder} holds {len(entries)} drops instead of one beside {REASON}; "
                "move the one to retry into the drop zone"
            )
        target = _free(self.rejected / f".again-{uuid.uuid4().hex[:8]}") / entries[0].name
        target.parent.mkdir()
        os.rename(entries[0], target)
        shutil.rmtree(folder)
        return target

    def recover(self) -> list[Path]:
        """Move drops that an earlier run left in staging back to the drop zone; return their paths.

        Copies are deleted: their originals are in place.
        """
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

    def _staging_folder(self, staged: Staged) -> Path:
        return self.staging / staged.folder.relative_to(self.staging).parts[0]

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


def version_of(path: Path) -> tuple[str, int] | None:
    """Return name and version that an entry of the repository stands for; ``None``: no model."""
    name, _, number = path.name.partition("@")
    if not re.match(MODEL_NAME, name) or not (number.isdecimal() or path.name == name):
        return None
    return name, int(number or 1)


def model_name(path: Path) -> str:
    """Return the model name that a drop's own name stands for: a file's ending is left out."""
    if not path.is_file():
        return path.name
    for ending in (*ARCHIVES, path.suffix):
        if ending and path.name.endswith(ending):
            return path.name[: -len(ending)]
    return path.name


def _inner(folder: Path) -> Path:
    """Replace an unpacked archive by its only top-level folder, where it has just that."""
    entries = list(folder.iterdir())
    if len(entries) != 1 or not entries[0].is_dir() or entries[0].is_symlink():
        return folder
    aside = folder.with_name(f".{folder.name}")
    os.rename(folder, aside)
    os.rename(aside / entries[0].name, folder)
    aside.rmdir()
    return folder


def _move_or_copy(source: Path, target: Path, *, moved: bool) -> None:
    if moved:
        _move(source, target)
    elif source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def _move(source: Path, target: Path) -> None:
    """Rename; across file systems copy, and delete the source once the copy is on disk."""
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


def _free(path: Path) -> Path:
    """Return ``path``, or the first ``path-N`` that does not exist."""
    for number in range(1, 100_000):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        if not os.path.lexists(candidate):
            return candidate
    raise InputError(f"100,000 entries are called {path.name}; delete old ones in {path.parent}")


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
