"""The model repository and the folders around it: drop zone, staging, rejected drops.

A drop moves from the drop zone to staging, and from there to the repository or, with a reason
beside it, to the rejected drops. Every call blocks on file operations: call it off the event loop.
No drop is ever deleted, except a copy whose content is already in the repository, and what an
operator removed: see `modelium.intake.trash`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from modelium import analysis
from modelium.config import Orchestration
from modelium.config.folders import make
from modelium.errors import DropRejected, InputError
from modelium.intake.moving import clear, copy, move, sync, sync_tree
from modelium.intake.trash import NOTE, Trash
from modelium.models import MODEL_NAME

logger = logging.getLogger(__name__)

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
"""Endings of files that are unpacked; other files are models themselves."""
ORIGIN = "origin.json"
"""Beside a staged drop: where it came from, for `ModelRepository.recover`."""
REASON = "reason.json"
"""Beside a rejected drop: the error, and the options that the drop came with."""
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
RESERVED = frozenset({ORIGIN, REASON, NOTE})
"""No models' names: a model's folder lies beside the file of that name."""


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
            DropRejected: the name is not a valid model name, the drop is a link, or the archive
                cannot be unpacked.
        """
        if not path.exists():
            raise InputError(f"{path} does not exist; check the path and try again")
        if path.name == "..":
            raise InputError(f"{path} ends with '..', which is no drop; use the folder's own path")
        trashed = path.parent.parent == self.trash.folder
        moved = trashed or path.parent in (self.incoming, self.rejected)
        if moved:
            analysis.refuse_link(path)  # its digest would read whatever it leads to
        wanted = name or model_name(path)
        if not _is_name(wanted):
            raise DropRejected(
                f"{wanted!r} is not a valid model name: use up to 128 letters, digits, '.', '_' "
                f"and '-', starting with a letter or digit, and none of "
                f"{', '.join(sorted(RESERVED))}",
                reason="name",
            )
        own = self.staging / uuid.uuid4().hex
        folder = own / wanted
        own.mkdir()

        def note(moved: bool) -> None:
            _write(own / ORIGIN, {"path": str(path), "moved": moved})

        try:
            note(moved)
            if path.is_file() and path.name.endswith(ARCHIVES):
                folder.mkdir()
                analysis.unpack(path, folder)
                folder = _inner(folder)
                moved = moved and move(path, own / path.name, note=note)
            else:
                target = folder
                if path.is_file():
                    folder.mkdir()
                    target = folder / path.name
                if moved:
                    moved = move(path, target, note=note)
                else:
                    copy(path, target)
        except (OSError, DropRejected):
            shutil.rmtree(own, ignore_errors=True)  # the drop is in its place
            raise
        # A copy of a published model brings what Triton needed; a hostile drop may imitate that.
        analysis.unlay(folder)
        return Staged(name=wanted, folder=folder, moved=moved)

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
        own = self._staging_folder(staged)
        if own.exists():
            self._return(own)

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
        target = self._rejected(staged.name, error, digest=digest, asked=asked)
        try:
            for entry in own.iterdir():
                if entry.name != ORIGIN:
                    move(entry, target / entry.name)
        except OSError:
            _drop_empty(target)
            raise
        shutil.rmtree(own, ignore_errors=True)
        return target

    def reject_unstaged(self, path: Path, error: DropRejected) -> Path:
        """Move a drop that could not be staged to the rejected drops, with the reason beside it."""
        target = self._rejected(path.name, error, digest="", asked={})
        aside = f"{path.name}-drop" if path.name == REASON else path.name
        try:
            move(path, target / aside)
        except OSError:
            _drop_empty(target)
            raise
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
        for own in list(self.staging.iterdir()):
            try:
                back += self._return(own)
            except OSError as exc:
                logger.warning("a drop of an earlier run stays in %s for now: %s", own, exc)
        for folder in (self.incoming, self.rejected):
            clear(folder)
        return back

    def _return(self, own: Path) -> list[Path]:
        """Move what a staging folder holds back to the drop zone, and delete the folder."""
        try:
            origin = json.loads((own / ORIGIN).read_text())
        except (OSError, ValueError):
            origin = {"moved": True}
        back = []
        for entry in list(own.iterdir()) if origin["moved"] else ():
            if entry.name != ORIGIN:
                target = _free(self.incoming / entry.name)
                move(entry, target)
                back.append(target)
        shutil.rmtree(own, ignore_errors=True)
        return back

    def _staging_folder(self, staged: Staged) -> Path:
        return self.staging / staged.folder.relative_to(self.staging).parts[0]

    def _rejected(
        self,
        name: str,
        error: DropRejected,
        *,
        digest: str,
        asked: dict[str, str | None],
    ) -> Path:
        """Return a new folder for the rejected drop ``name``, with the reason in it."""
        # The reason is first: a drop without one would not be listed.
        target = _free(self.rejected / re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100])
        target.mkdir()
        reason = {
            "model": name,
            "reason": error.reason,
            "message": str(error),
            "approvable": error.approvable,
            "digest": digest,
            "at": time.time(),
            **asked,
        }
        try:
            (target / REASON).write_text(json.dumps(reason, indent=2) + "\n")
        except OSError:
            _drop_empty(target)
            raise
        return target


def version_of(path: Path) -> tuple[str, int] | None:
    """Return name and version that an entry of the repository stands for; ``None``: no model."""
    name, at, number = path.name.partition("@")
    if not _is_name(name) or (at and not _VERSION.fullmatch(number)):
        return None
    return name, int(number or 1)


def _is_name(name: str) -> bool:
    return re.match(MODEL_NAME, name) is not None and name not in RESERVED


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


def _write(file: Path, content: Mapping[str, object]) -> None:
    """Write ``content`` as JSON, synced to disk."""
    with file.open("w") as out:
        json.dump(content, out)
        out.flush()
        os.fsync(out.fileno())


def _drop_empty(target: Path) -> None:
    """Delete the folder of a rejected drop that could not be moved there."""
    if all(entry.name == REASON for entry in target.iterdir()):
        shutil.rmtree(target, ignore_errors=True)


def _free(path: Path) -> Path:
    """Return ``path``, or the first ``path-N`` that does not exist."""
    for number in range(1, 100_000):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        if not os.path.lexists(candidate):
            return candidate
    raise InputError(f"100,000 entries are called {path.name}; delete old ones in {path.parent}")
