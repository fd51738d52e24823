"""Extraction of dropped archives: regular files only, inside the target, of bounded size."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from typing_extensions import Buffer

from modelium.analysis.readers.folder import (
    MAX_DEPTH,
    MAX_FILES,
    shown,
    unsafe_name,
)
from modelium.analysis.readers.zip_directory import open_zip
from modelium.errors import DropRejected, is_passing

MAX_BYTES = 2 * 1024**4
"""Unpacked, in all: above any published model."""
MAX_RATIO = 200
"""Unpacked to packed. Weights hardly compress; text does by a few tens."""
FREE_BYTES = 64 * 1024**2
"""Small archives may compress as well as they like."""
MAX_READ = 8 * 1024**2
"""One read of a tar stream: only a header made to fill memory asks for more."""
XZ_MEMORY = 192 * 1024**2
"""``xz -9`` needs 65 MiB to decompress."""
_CHUNK = 1024**2
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


def unpack(archive: Path, into: Path, *, parent: int | None = None) -> None:
    """Unpack a zip or tar (plain, gzip, bzip2, xz) into the new folder ``into``.

    Raises `DropRejected`: its end is missing (``truncated``), members outside ``into``, links,
    devices, encryption, duplicates, too many files, or more bytes than the packed size explains.
    What was written stays for the caller to remove. A single top-level folder is unpacked as it
    is. ``parent``: the open folder that holds ``archive``; default: that of its path.
    """
    try:
        into.mkdir(parents=True, exist_ok=True)
        with _opened(archive, parent) as file:
            packed = os.fstat(file.fileno()).st_size
            if zipfile.is_zipfile(file):
                _unzip(file, into, _Budget(packed))
            elif _begins_as_zip(file):
                raise EOFError("a zip's table of contents, which is at its end, is missing")
            else:
                _untar(file, into, _Budget(packed))
    except (
        OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zlib.error,
        lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, zipfile.LargeZipFile,
    ) as exc:  # fmt: skip
        if isinstance(exc, OSError) and is_passing(exc):
            raise
        raise DropRejected(
            f"{shown(archive.name)!r} cannot be unpacked as a zip or tar archive: "
            f"{shown(str(exc))}. Copy or pack it again.",
            reason="truncated" if _ends_early(exc) else "bad-archive",
        ) from exc


def _opened(archive: Path, parent: int | None) -> BinaryIO:
    """Open a regular file; whoever put it there may have put a link or a pipe in its place."""
    name = archive if parent is None else archive.name
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    file = os.fdopen(os.open(name, flags, dir_fd=parent), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("it is no plain file")
    return file


def _begins_as_zip(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(4) == b"PK\x03\x04"


def _ends_early(exc: BaseException) -> bool:
    """Whether an archive cannot be unpacked because its end is missing."""
    tar = {"unexpected end of data", "truncated header", "empty file"}
    return isinstance(exc, EOFError) or str(exc) in tar


class _Budget:
    """Bytes and names that an archive of a given size may still unpack to."""

    def __init__(self, packed: int) -> None:
        self.left = min(MAX_BYTES, packed * MAX_RATIO + FREE_BYTES)
        self.names: set[str] = set()

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise DropRejected(
                f"The archive unpacks to more than {MAX_RATIO} times its size (possible bomb). "
                "Drop the folder itself.",
                reason="archive-bomb",
            )

    def target(self, into: Path, name: str) -> Path:
        """Where a member goes; raises for names that are unsafe, outside or taken."""
        parts = name.rstrip("/").split("/")
        while parts and parts[0] == ".":
            parts = parts[1:]
        if not parts or any(unsafe_name(p) for p in parts):
            raise DropRejected(
                f"The archive holds {shown(name)!r}, outside its folder or with an unsafe name.",
                reason="path-traversal",
            )
        if len(parts) > MAX_DEPTH:
            raise DropRejected(
                f"The archive's folders nest deeper than {MAX_DEPTH}. Drop the folder itself.",
                reason="too-deep",
            )
        plain = "/".join(parts)
        if plain in self.names:
            raise DropRejected(
                f"The archive holds {shown(plain)!r} twice.", reason="duplicate-member"
            )
        self.names.add(plain)
        if len(self.names) > MAX_FILES:
            raise DropRejected(
                f"The archive holds more than {MAX_FILES} files.", reason="too-many-files"
            )
        return into.joinpath(*parts)


def _write(source: IO[bytes], target: Path, budget: _Budget) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Exclusive and not through links: nothing that exists is written over.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(target, flags, 0o644), "wb") as out:
        while chunk := source.read(_CHUNK):
            budget.spend(len(chunk))
            out.write(chunk)


_ZIP_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2})


def _unzip(archive: BinaryIO, into: Path, budget: _Budget) -> None:
    with open_zip(archive) as opened:
        for info in opened.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind and not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
                raise _special(info.filename)
            if info.flag_bits & 1 or info.compress_type not in _ZIP_METHODS:
                raise DropRejected(
                    "The archive is encrypted or compressed in an unusual way. Pack it again.",
                    reason="bad-archive",
                )
            # zipfile cuts names at NUL; the full one is what was meant to deceive.
            target = budget.target(into, info.orig_filename)
            if info.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            with opened.open(info) as source:
                _write(source, target, budget)


class _Guarded(io.RawIOBase):
    """A stream for tarfile that is never asked for more than a header or a chunk at once."""

    def __init__(
        self, stream: gzip.GzipFile | bz2.BZ2File | io.BufferedReader | BinaryIO, budget: int
    ) -> None:
        self._stream = stream
        self._left = budget
        self.last = b""
        """What was read last."""

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_READ:
            raise DropRejected(
                "A header of the archive is larger than any real one.", reason="archive-bomb"
            )
        self.last = self._stream.read(size)
        self._left -= len(self.last)
        if self._left < 0:
            raise DropRejected(
                "The archive unpacks to more than its size allows.", reason="archive-bomb"
            )
        return self.last


class _Xz(io.RawIOBase):
    """An xz stream whose dictionary is bounded, which `lzma.open` cannot do."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decoder = lzma.LZMADecompressor(memlimit=XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        while not self._decoder.eof:
            packed = self._file.read(_CHUNK) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not packed:
                raise EOFError("the archive ends early")
            data = self._decoder.decompress(packed, max_length=len(view))
            if data:
                view[: len(data)] = data
                return len(data)
        return 0


class _Forward(io.BufferedReader):
    """A stream that can be sought forward by reading on, as tarfile does between members."""

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__(raw, _CHUNK)
        self._at = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._at += len(data)
        return data

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if offset < self._at:
            raise tarfile.ReadError("the archive's members are out of order")
        while self._at < offset and self.read(min(_CHUNK, offset - self._at)):
            pass
        return self._at


def _stream(file: BinaryIO) -> gzip.GzipFile | bz2.BZ2File | _Forward | BinaryIO:
    head = file.read(6)
    file.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if head.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if head == b"\xfd7zXZ\x00":
        return _Forward(_Xz(file))
    return file


def _untar(archive: BinaryIO, into: Path, budget: _Budget) -> None:
    archive.seek(0)
    with _stream(archive) as stream:
        guarded = _Guarded(stream, 2 * budget.left)
        with tarfile.open(fileobj=guarded, mode="r:") as opened:
            for member in _members(opened, guarded):
                if not (member.isreg() or member.isdir()) or member.issparse():
                    raise _special(member.name)
                if member.isdir() and member.name.strip("./") == "":
                    continue
                target = budget.target(into, member.name)
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                source = opened.extractfile(member)
                if source is not None:
                    with source:
                        _write(source, target, budget)


def _members(opened: tarfile.TarFile, stream: _Guarded) -> Iterator[tarfile.TarInfo]:
    """Yield the members; raise where they do not end as a tar does, which tarfile lets pass."""
    seen = 0
    while (member := opened.next()) is not None:
        seen += 1
        if seen > MAX_FILES:
            raise DropRejected(
                f"The archive holds more than {MAX_FILES} members.", reason="too-many-files"
            )
        yield member
    if len(stream.last) < tarfile.BLOCKSIZE:
        raise EOFError("the archive ends early")
    if any(stream.last):
        raise tarfile.ReadError("a header is damaged")


def _special(name: str) -> DropRejected:
    return DropRejected(
        f"The archive holds {shown(name)!r}, a link or device. Pack plain files only.",
        reason="special-file",
    )
