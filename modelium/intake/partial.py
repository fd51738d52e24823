"""The files of a version while they are fetched: what has arrived survives a kill.

Chunks are written at their place; a journal says which have arrived, with the hash of each. After
a kill they are read and compared with it, and what is missing or damaged is fetched again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from modelium import analysis
from modelium.errors import DropRejected
from modelium.intake.manifest import BadManifest, Chunk, Manifest
from modelium.intake.moving import sync, sync_tree
from modelium.intake.removal import remove

MANIFEST, JOURNAL, FILES = "manifest.json", "journal", "files"


class Partial:
    """One version that is being fetched into ``folder``. Every call blocks."""

    def __init__(self, *, folder: Path, manifest: Manifest) -> None:
        """Make ``folder``, or take up what an earlier try at the same content has left in it."""
        self.folder = folder
        self.manifest = manifest
        self._chunks = {(chunk.number, chunk.index): chunk for chunk in manifest.chunks()}
        self._done: dict[tuple[int, int], str] = {}
        if not self._continues():
            self._begin()
        self._check()

    @property
    def arrived_bytes(self) -> int:
        """Of the chunks that are here."""
        return sum(self._chunks[key].size for key in self._done)

    def missing(self) -> list[Chunk]:
        """Return the chunks that are not here, in order."""
        return [chunk for key, chunk in self._chunks.items() if key not in self._done]

    def write(self, chunk: Chunk, data: bytes) -> None:
        """Keep a chunk that was checked."""
        with self._path(chunk).open("r+b", buffering=0) as file:
            file.seek(chunk.begin)
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
        found = hashlib.sha256(data).hexdigest()
        with (self.folder / JOURNAL).open("a") as journal:
            journal.write(f"{chunk.number} {chunk.index} {found}\n")
        self._done[chunk.number, chunk.index] = found

    def finish(self, target: Path, *, note: Callable[[Path], None]) -> str:
        """Check the whole, and give it the name ``target``; return its seal.

        ``note`` is called with the folder just before, to write down what it is.

        Raises:
            BadManifest: it is not what was registered; all of it is thrown away.
        """
        files = self.folder / FILES
        try:
            seal = analysis.seal(files)
            digest = analysis.digest(files)
        except DropRejected as exc:
            raise BadManifest(f"what arrived cannot be read: {exc}") from exc
        if digest != self.manifest.digest:
            self.discard()
            raise BadManifest("what arrived has another digest than what was registered")
        sync_tree(files)
        note(files)
        os.rename(files, target)
        sync(target.parent)
        self.discard()
        return seal

    def discard(self) -> None:
        """Delete what has arrived."""
        remove(self.folder)

    def _path(self, chunk: Chunk) -> Path:
        return self.folder / FILES / chunk.name

    def _continues(self) -> bool:
        try:
            known = (self.folder / MANIFEST).read_text()
        except (OSError, ValueError):
            return False
        return known == self.manifest.model_dump_json() and (self.folder / FILES).is_dir()

    def _begin(self) -> None:
        """Make all files, empty but of their sizes; the manifest last, which says that they are."""
        remove(self.folder)
        files = self.folder / FILES
        files.mkdir(parents=True)
        for file in self.manifest.files:
            path = files / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as out:
                out.truncate(file.size)
        (self.folder / JOURNAL).touch()
        fresh = self.folder / f".{MANIFEST}"
        fresh.write_text(self.manifest.model_dump_json())
        os.rename(fresh, self.folder / MANIFEST)

    def _check(self) -> None:
        """Find out which chunks of the journal are whole."""
        for line in (self.folder / JOURNAL).read_text(errors="replace").splitlines():
            try:
                number, index, said = line.split()
                key = int(number), int(index)
            except ValueError:  # the kill came while it was written
                continue
            chunk = self._chunks.get(key)
            if chunk is not None and self._hash(chunk) == said:
                self._done[key] = said

    def _hash(self, chunk: Chunk) -> str:
        try:
            with self._path(chunk).open("rb", buffering=0) as file:
                file.seek(chunk.begin)
                return hashlib.sha256(file.read(chunk.size)).hexdigest()
        except OSError:
            return ""
