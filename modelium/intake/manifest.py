"""What the files of a version are, so that another machine can fetch them in chunks (no links)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import Field, ValidationError

from modelium.analysis.readers.folder import MAX_FILES, Folder, inside, shown
from modelium.errors import InputError, ModeliumError
from modelium.models.base import Frozen

CHUNK_BYTES = 8 * 1024**2
"""A chunk is what is checked, and sent again, as one; each transfer holds one in memory."""

MAX_BYTES = 16 * 1024**2
"""Of a manifest: 20,000 files with names of hundreds of characters."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


class BadManifest(ModeliumError):
    """What a machine says of its files cannot be true, or is not what was registered."""

    reason = "bad-manifest"


class ListedFile(Frozen):
    """One file: its name relative to the model's folder (POSIX), and its size in bytes."""

    name: Annotated[str, Field(min_length=1, max_length=4096)]
    size: Annotated[int, Field(ge=0, lt=2**63)]

    @property
    def chunks(self) -> int:
        """In how many chunks it is sent."""
        return -(-self.size // CHUNK_BYTES)


class Manifest(Frozen):
    """The files of one version, by name."""

    digest: str
    """Of the whole, as it was registered."""
    files: Annotated[tuple[ListedFile, ...], Field(max_length=MAX_FILES)]

    @property
    def total_bytes(self) -> int:
        """Of all files."""
        return sum(file.size for file in self.files)

    def chunks(self) -> Iterator[Chunk]:
        """Yield all chunks, in order."""
        for number, file in enumerate(self.files):
            for index in range(file.chunks):
                begin = index * CHUNK_BYTES
                yield Chunk(number, file.name, index, min(CHUNK_BYTES, file.size - begin))


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of one file."""

    number: int
    """Of the file, in the manifest."""
    name: str
    """Of the file."""
    index: int
    """Of the chunk, in the file."""
    size: int
    """In bytes: `CHUNK_BYTES`, less at the file's end."""

    @property
    def begin(self) -> int:
        """Its offset in the file, in bytes."""
        return self.index * CHUNK_BYTES


def read_manifest(body: bytes, *, digest: str) -> Manifest:
    """Return what another machine says of the version with ``digest``.

    Raises:
        BadManifest: it is malformed, of other content, or names what would lie outside.
    """
    try:
        found = Manifest.model_validate_json(body)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        raise BadManifest(f"its list of files is malformed: {first['msg']}") from exc
    if found.digest != digest:
        raise BadManifest("it has other content under this version")
    _check_names([file.name for file in found.files])
    return found


def _check_names(names: list[str]) -> None:
    if not names:
        raise BadManifest("its list of files is empty")
    for name in names:
        if not inside(name):
            raise BadManifest(f"its list of files names {shown(name)!r}, which is no plain path")
    if names != sorted(set(names)):
        raise BadManifest("its list of files has one twice, or is not in order")
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    if both := folders.intersection(names):
        raise BadManifest(f"its list of files has {shown(min(both))!r} as a file and as a folder")


def manifest_of(folder: Path, *, digest: str) -> Manifest:
    """Return what ``folder``, whose content is ``digest``, consists of. Blocks.

    Raises:
        DropRejected: it is not safe to read.
    """
    files = tuple(ListedFile(name=file.name, size=file.size) for file in Folder(folder).files)
    return Manifest(digest=digest, files=files)


def read_chunk(folder: Path, name: str, index: int) -> bytes:
    """Return chunk ``index`` of the file ``name`` of ``folder``. Blocks.

    A link inside the folder, which is part of the model, is read where it leads; from there on
    the file is opened by descriptors, and nothing on its way may be a link.

    Raises:
        InputError: there is no such file, or no such chunk of it.
    """
    missing = InputError(f"no chunk {index} of {shown(name)!r}")
    if not inside(name) or index < 0:
        raise missing
    try:
        root = folder.resolve(strict=True)
        real = (root / name).resolve(strict=True)
        if not real.is_relative_to(root):
            raise missing
        return _read(root, real.relative_to(root).parts, index * CHUNK_BYTES, missing)
    except (FileNotFoundError, NotADirectoryError, OverflowError, RuntimeError) as exc:
        raise missing from exc


def _read(root: Path, parts: tuple[str, ...], begin: int, missing: InputError) -> bytes:
    at = os.open(root, _FOLDER)
    try:
        for folder in parts[:-1]:
            inner = os.open(folder, _FOLDER, dir_fd=at)
            os.close(at)
            at = inner
        file = os.open(parts[-1], _FILE, dir_fd=at)
    finally:
        os.close(at)
    with os.fdopen(file, "rb", buffering=0) as opened:
        info = os.fstat(file)
        if not stat.S_ISREG(info.st_mode) or begin >= info.st_size:
            raise missing
        opened.seek(begin)
        found, wanted = bytearray(), min(CHUNK_BYTES, info.st_size - begin)
        while len(found) < wanted and (more := opened.read(wanted - len(found))):
            found += more
        return bytes(found)
