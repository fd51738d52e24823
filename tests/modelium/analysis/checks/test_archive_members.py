"""What of an archive is unpacked, where to, and up to which bounds."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from modelium.analysis import unpack
from modelium.analysis.checks import archives as module
from tests.modelium.analysis.checks.packing import named, reason_of, refused, tar_of

DIRECTORY = tarfile.DIRTYPE
DEEP = "/".join("abcdefghijkl")
"""As deep as a model may nest."""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "new" / "out"


def zip_of(path: Path, *names: str, data: bytes = b"x", kind: int = 0) -> Path:
    """Those that end with a slash are folders; ``kind``: of file, as `stat` has it."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.external_attr = kind << 16
            archive.writestr(info, b"" if name.endswith("/") else data)
    return path


def packed(path: Path, kind: str, *names: str) -> Path:
    """A zip or tar of folders, whose names end with a slash, and files."""
    if kind == "zip":
        return zip_of(path, *names)
    members = [named(n.rstrip("/"), DIRECTORY) if n.endswith("/") else named(n) for n in names]
    return tar_of(path, *members)


def files(folder: Path) -> list[str]:
    return sorted(f"{p.relative_to(folder)}{'/' if p.is_dir() else ''}" for p in folder.rglob("*"))


KINDS = pytest.mark.parametrize("kind", ["zip", "tar"])


@KINDS
def test_folders_and_files_are_unpacked_in_any_order(tmp_path: Path, out: Path, kind: str) -> None:
    unpack(packed(tmp_path / "m", kind, "a/b/", "a/x", "a/", "./c/y", "e/", "z"), out)
    assert files(out) == ["a/", "a/b/", "a/x", "c/", "c/y", "e/", "z"]
    assert (out / "a" / "x").read_bytes() == b"x"


def test_a_file_gets_no_permissions_of_the_archive(tmp_path: Path, out: Path) -> None:
    member = named("x")
    member.mode = 0o4777
    before = os.umask(0o022)
    try:
        unpack(tar_of(tmp_path / "m", member), out)
    finally:
        os.umask(before)
    assert stat.S_IMODE((out / "x").stat().st_mode) == 0o644


@KINDS
@pytest.mark.parametrize(
    ("names", "sentence", "reason"),
    [
        (["../x\n"], "holds '../x?', outside its folder or with an unsafe name.", "path-traversal"),
        (["."], "holds '.', outside its folder or with an unsafe name.", "path-traversal"),
        (["/x"], "holds '/x', outside its folder or with an unsafe name.", "path-traversal"),
        (["a/./x"], "holds 'a/./x', outside its folder or with an unsafe name.", "path-traversal"),
        (["a/x", "./a/x"], "holds 'a/x' twice.", "duplicate-member"),
        (["a/", "a"], "holds 'a' twice.", "duplicate-member"),
        ([f"{DEEP}/m"], "'s folders nest deeper than 12. Drop the folder itself.", "too-deep"),
    ],
)
def test_names_that_are_refused(
    tmp_path: Path, out: Path, kind: str, names: list[str], sentence: str, reason: str
) -> None:
    error = refused(packed(tmp_path / "m", kind, *names), out)
    space = "" if sentence.startswith("'") else " "
    assert (str(error), error.reason) == (f"The archive{space}{sentence}", reason)


@KINDS
def test_folders_may_nest_as_deep_as_a_models(tmp_path: Path, out: Path, kind: str) -> None:
    unpack(packed(tmp_path / "m", kind, DEEP), out)
    assert (out / DEEP).read_bytes() == b"x"


def test_the_root_of_a_tar_is_its_folder(tmp_path: Path, out: Path) -> None:
    unpack(tar_of(tmp_path / "m", named("./", DIRECTORY), named("x")), out)
    assert files(out) == ["x"]


@KINDS
def test_an_archive_of_nothing_is_an_empty_folder(tmp_path: Path, out: Path, kind: str) -> None:
    for _ in range(2):
        unpack(packed(tmp_path / "m", kind), out)
        assert files(out) == []


@pytest.mark.parametrize("kind", [0, stat.S_IFREG | 0o755, stat.S_IFDIR | 0o755])
def test_plain_members_of_a_zip_are_unpacked(tmp_path: Path, out: Path, kind: int) -> None:
    unpack(zip_of(tmp_path / "m", "x", kind=kind), out)
    assert files(out) == ["x"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_special_members_of_a_zip_are_refused(tmp_path: Path, out: Path, kind: int) -> None:
    error = refused(zip_of(tmp_path / "m", "x\n", kind=kind | 0o644), out)
    sentence = "The archive holds 'x?', a link or device. Pack plain files only."
    assert (str(error), error.reason) == (sentence, "special-file")


def test_sparse_members_of_a_tar_are_refused(tmp_path: Path, out: Path) -> None:
    member = named("x", tarfile.GNUTYPE_SPARSE)
    assert reason_of(tar_of(tmp_path / "m", member), out) == "special-file"


@pytest.mark.parametrize(
    ("method", "reason"), [(zipfile.ZIP_BZIP2, None), (zipfile.ZIP_LZMA, "bad-archive")]
)
def test_methods_that_unzip_has_are_taken(
    tmp_path: Path, out: Path, method: int, reason: str | None
) -> None:
    with zipfile.ZipFile(tmp_path / "m", "w", method) as archive:
        archive.writestr("x", b"hello")
    if reason is None:
        unpack(tmp_path / "m", out)
        assert (out / "x").read_bytes() == b"hello"
    else:
        error = refused(tmp_path / "m", out)
        sentence = "The archive is encrypted or compressed in an unusual way. Pack it again."
        assert (str(error), error.reason) == (sentence, reason)


# --- bounds ---------------------------------------------------------------------------------------


@KINDS
def test_files_are_counted(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 3)
    unpack(packed(tmp_path / "m", kind, "a/", "a/x", "y"), out)
    error = refused(packed(tmp_path / "n", kind, "a/", "a/x", "y", "z"), tmp_path / "more")
    what = {"zip": "files", "tar": "members"}[kind]
    assert str(error) == f"The archive holds more than 3 {what}."
    assert error.reason == "too-many-files"


@KINDS
def test_what_is_unpacked_is_as_large_as_the_archive_explains(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    data = bytes(100_000)
    archive = tmp_path / "m"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
            opened.writestr("x", data)
    else:
        plain = tar_of(tmp_path / "plain", named("x"), data=data)
        archive.write_bytes(gzip.compress(plain.read_bytes()))
    monkeypatch.setattr(module, "MAX_RATIO", 3)
    monkeypatch.setattr(module, "FREE_BYTES", len(data) - 3 * archive.stat().st_size)
    unpack(archive, out)
    assert (out / "x").stat().st_size == len(data)
    monkeypatch.setattr(module, "FREE_BYTES", module.FREE_BYTES - 1)
    error = refused(archive, tmp_path / "more")
    assert (str(error), error.reason) == (
        "The archive unpacks to more than 3 times its size (possible bomb). Drop the folder "
        "itself.",
        "archive-bomb",
    )


def test_what_is_unpacked_is_no_larger_than_any_model(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of its files together."""
    archive = zip_of(tmp_path / "m", "a", "b", data=b"12345")
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    unpack(archive, out)
    monkeypatch.setattr(module, "MAX_BYTES", 9)
    assert reason_of(archive, tmp_path / "more") == "archive-bomb"
    assert reason_of(packed(tmp_path / "n", "tar", "a"), tmp_path / "tar") == "archive-bomb"


def test_headers_of_a_tar_count_twice(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tar_of(tmp_path / "m", *(named(f"d{number}", DIRECTORY) for number in range(3)))
    monkeypatch.setattr(module, "MAX_BYTES", 2 * tarfile.BLOCKSIZE)
    unpack(archive, out)
    monkeypatch.setattr(module, "MAX_BYTES", 2 * tarfile.BLOCKSIZE - 1)
    error = refused(archive, tmp_path / "more")
    assert str(error) == "The archive unpacks to more than its size allows."


def test_a_header_of_a_tar_is_no_larger_than_one_read(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(tmp_path / "m", "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("x")
        member.pax_headers = {"comment": "c" * 1000}
        archive.addfile(member)
    monkeypatch.setattr(module, "MAX_READ", 1024)
    unpack(tmp_path / "m", out)
    monkeypatch.setattr(module, "MAX_READ", 1023)
    error = refused(tmp_path / "m", tmp_path / "more")
    assert str(error) == "A header of the archive is larger than any real one."


# --- streams --------------------------------------------------------------------------------------

PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_members_larger_than_one_read_are_unpacked_whole(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, packing: str
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 1000)
    data = random.Random(1).randbytes(5000) + bytes(50_000) + b"!"
    archive = tar_of(tmp_path / "m", named("a"), named("b"), data=data)
    archive.write_bytes(PACKINGS[packing](archive.read_bytes()))
    unpack(archive, out)
    assert files(out) == ["a", "b"]
    assert (out / "a").read_bytes() == (out / "b").read_bytes() == data


# --- what is no archive, or not all of one --------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "reason"),
    [(1024, "truncated"), (1024 + 300, "truncated"), (2048, "truncated"), (2560, None)],
)
def test_a_tar_ends_with_an_empty_block(
    tmp_path: Path, out: Path, keep: int, reason: str | None
) -> None:
    archive = tar_of(tmp_path / "m", named("a"), named("b"))
    archive.write_bytes(archive.read_bytes()[:keep])
    if reason is None:
        unpack(archive, out)
        assert files(out) == ["a", "b"]
    else:
        assert reason_of(archive, out) == reason


def test_a_zip_that_was_cut_says_what_it_lacks(tmp_path: Path, out: Path) -> None:
    archive = zip_of(tmp_path / "m", "x")
    archive.write_bytes(archive.read_bytes()[:-1])
    error = refused(archive, out)
    assert (str(error), error.reason) == (
        "'m' cannot be unpacked as a zip or tar archive: a zip's table of contents, which is at "
        "its end, is missing. Copy or pack it again.",
        "truncated",
    )


def test_a_tar_with_a_damaged_header_is_not_unpacked_in_part(tmp_path: Path, out: Path) -> None:
    archive = tar_of(tmp_path / "m", named("a"), named("b"))
    data = bytearray(archive.read_bytes())
    data[1024] ^= 1
    archive.write_bytes(data)
    error = refused(archive, out)
    assert error.reason == "bad-archive"
    assert str(error) == (
        "'m' cannot be unpacked as a zip or tar archive: a header is damaged. Copy or pack it "
        "again."
    )


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_tar_that_leads_back_into_itself_ends(tmp_path: Path, out: Path, packing: str) -> None:
    """A member of less than nothing: what follows it comes before it."""
    again = named("b").tobuf()
    size = (-1024).to_bytes(12, "big", signed=True)
    again = again[:124] + size + again[136:148] + b" " * 8 + again[156:]
    again = again[:148] + b"%06o\0 " % sum(again) + again[156:]
    first = tar_of(tmp_path / "m", named("a")).read_bytes()[:1024]
    (tmp_path / "m").write_bytes(PACKINGS[packing](first + again + bytes(1024)))
    assert reason_of(tmp_path / "m", out) in ("bad-archive", "duplicate-member")


def test_an_archive_is_a_plain_file(tmp_path: Path, out: Path) -> None:
    os.mkfifo(tmp_path / "pipe\n")
    error = refused(tmp_path / "pipe\n", out)
    assert (str(error), error.reason) == (
        "'pipe?' cannot be unpacked as a zip or tar archive: it is no plain file. Copy or pack it "
        "again.",
        "bad-archive",
    )
    (tmp_path / "link").symlink_to(tar_of(tmp_path / "m", named("x")))
    assert reason_of(tmp_path / "link", out) == "bad-archive"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_an_error_of_the_machine_says_nothing_of_the_archive(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    archive = tar_of(tmp_path / "m", named("x"))
    opened = os.open

    def refusing(path: Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_CREAT:
            raise OSError(number, "no")
        return opened(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refusing)
    if number == errno.ENOSPC:
        with pytest.raises(OSError, match="no"):
            unpack(archive, out)
    else:
        assert reason_of(archive, out) == "bad-archive"
