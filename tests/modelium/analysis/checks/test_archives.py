"""Dropped archives are unpacked safely or not at all."""

import bz2
import gzip
import lzma
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from modelium.analysis import analyze, unpack
from modelium.errors import DropRejected
from tests.modelium.analysis.checks.packing import named, reason_of, tar_of
from tests.modelium.analysis.files import llama_folder


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_of_a_model_is_unpacked_whole(tmp_path: Path, mode: str) -> None:
    folder = llama_folder(tmp_path / "m")
    with tarfile.open(tmp_path / "m.tar", mode) as archive:  # type: ignore[call-overload]
        archive.add(folder, arcname=".")
    unpack(tmp_path / "m.tar", tmp_path / "out")
    assert analyze(tmp_path / "out") == analyze(folder)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_of_a_model_is_unpacked_whole(tmp_path: Path, method: int) -> None:
    folder = llama_folder(tmp_path / "m")
    with zipfile.ZipFile(tmp_path / "m.zip", "w", method) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    unpack(tmp_path / "m.zip", tmp_path / "out")
    assert analyze(tmp_path / "out") == analyze(folder)


ESCAPES = ["../evil", "/tmp/evil", "a/../../evil", "a\\..\\evil", "a/\x1b[2J"]


@pytest.mark.parametrize("name", ESCAPES)
def test_tar_members_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    archive = tar_of(tmp_path / "m.tar", named(name))
    assert reason_of(archive, tmp_path / "out") == "path-traversal"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.tar", "out"]


@pytest.mark.parametrize("name", ESCAPES)
def test_zip_members_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr(name, b"x")
    assert reason_of(tmp_path / "m.zip", tmp_path / "out") == "path-traversal"


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
)
def test_links_and_devices_in_tars_are_refused(tmp_path: Path, kind: bytes) -> None:
    archive = tar_of(tmp_path / "m.tar", named("x", kind, "/etc/passwd"), named("x/y"))
    assert reason_of(archive, tmp_path / "out") == "special-file"


def test_links_in_zips_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        info = zipfile.ZipInfo("x")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert reason_of(tmp_path / "m.zip", tmp_path / "out") == "special-file"


def test_a_member_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "m.tar", named("x"), named("./x"))
    assert reason_of(archive, tmp_path / "out") == "duplicate-member"


def test_a_file_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("kept")
    tar_of(tmp_path / "m.tar", named("x"))
    with pytest.raises(DropRejected):
        unpack(tmp_path / "m.tar", tmp_path / "out")
    assert (tmp_path / "out" / "x").read_text() == "kept"


@pytest.fixture
def small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelium.analysis.checks.archives.FREE_BYTES", 1024**2)


@pytest.mark.usefixtures("small_budget")
def test_a_zip_bomb_stops_early(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", bytes(100 * 1024**2))
    assert reason_of(tmp_path / "m.zip", tmp_path / "out") == "archive-bomb"
    assert (tmp_path / "out" / "x").stat().st_size < 40 * 1024**2


@pytest.mark.usefixtures("small_budget")
@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_tar_bomb_stops_early(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    plain = tar_of(tmp_path / "plain", named("x"), data=bytes(100 * 1024**2))
    (tmp_path / "m.tar").write_bytes(compress(plain.read_bytes()))
    plain.unlink()
    assert reason_of(tmp_path / "m.tar", tmp_path / "out") == "archive-bomb"


def test_a_tar_header_that_fills_memory_is_refused(tmp_path: Path) -> None:
    header = named("x", tarfile.XHDTYPE)
    header.size = 512 * 1024**2
    (tmp_path / "m.tar").write_bytes(gzip.compress(header.tobuf() + bytes(600 * 1024)))
    tracemalloc.start()
    assert reason_of(tmp_path / "m.tar", tmp_path / "out") == "archive-bomb"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * 1024**2


def test_an_xz_dictionary_that_fills_memory_is_refused(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 512 * 1024**2}]
    packed = lzma.LZMACompressor(format=lzma.FORMAT_XZ, filters=filters)
    data = packed.compress(b"x") + packed.flush()
    (tmp_path / "m.tar.xz").write_bytes(data)
    assert reason_of(tmp_path / "m.tar.xz", tmp_path / "out") == "bad-archive"


def test_countless_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelium.analysis.checks.archives.MAX_FILES", 20)
    archive = tar_of(tmp_path / "m.tar", *[named(f"f{i}") for i in range(30)])
    assert reason_of(archive, tmp_path / "out") == "too-many-files"
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as packed:
        for index in range(30):
            packed.writestr(f"f{index}", b"")
    assert reason_of(tmp_path / "m.zip", tmp_path / "zip") == "too-many-files"


def test_a_zip_with_an_absurd_table_of_contents_is_not_read(tmp_path: Path) -> None:
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, 64 * 1024**2, 0, 0)
    with (tmp_path / "m.zip").open("wb") as file:
        file.truncate(80 * 1024**2)
        file.seek(0, 2)
        file.write(end)
    assert reason_of(tmp_path / "m.zip", tmp_path / "out") == "bad-archive"


def test_encrypted_zips_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr("x", b"x")
    data = bytearray((tmp_path / "m.zip").read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "m.zip").write_bytes(data)
    assert reason_of(tmp_path / "m.zip", tmp_path / "out") == "bad-archive"


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.tar").write_bytes(b"x" * 2000)
    assert reason_of(tmp_path / "m.tar", tmp_path / "out") == "bad-archive"


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06", b"\x1f\x8b\x08garbage", b"\xfd7zXZ\x00zz"])
def test_what_ends_before_it_is_an_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.tar").write_bytes(data)
    assert reason_of(tmp_path / "m.tar", tmp_path / "out") == "truncated"


@pytest.mark.parametrize("keep", [300, 700, 3000])
def test_a_tar_that_was_cut_lacks_its_end(tmp_path: Path, keep: int) -> None:
    plain = tar_of(tmp_path / "plain", named("x"), data=b"hello" * 5000)
    (tmp_path / "m.tar").write_bytes(plain.read_bytes()[:keep])
    assert reason_of(tmp_path / "m.tar", tmp_path / "out") == "truncated"


def test_a_zip_that_was_cut_lacks_its_end(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr("x", b"x" * 1000)
    (tmp_path / "m.zip").write_bytes((tmp_path / "m.zip").read_bytes()[:-10])
    assert reason_of(tmp_path / "m.zip", tmp_path / "out") == "truncated"


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_tar_that_was_cut_lacks_its_end(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    plain = tar_of(tmp_path / "plain", named("x"), data=b"hello" * 5000)
    data = compress(plain.read_bytes())
    (tmp_path / "m.tar").write_bytes(data[: len(data) // 2])
    assert reason_of(tmp_path / "m.tar", tmp_path / "out") == "truncated"
