"""The digest of a folder: contents and names, nothing else."""

import errno
import hashlib
import os
import tracemalloc
from pathlib import Path

import pytest

from modelium.analysis import digest, seal
from modelium.errors import DropRejected
from tests.modelium.analysis.files import llama_folder


def test_equal_folders_have_equal_digests(tmp_path: Path) -> None:
    one, two = llama_folder(tmp_path / "one"), llama_folder(tmp_path / "two")
    os.utime(two / "config.json", (1, 1))
    assert digest(one) == digest(two)
    assert digest(one).startswith("sha256:") and len(digest(one)) == 71


def test_every_byte_and_every_name_counts(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    seen = {digest(folder)}
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    seen.add(digest(folder))
    (folder / "a.txt").write_text("bc")
    seen.add(digest(folder))
    (folder / "a.txt").rename(folder / "b.txt")
    seen.add(digest(folder))
    assert len(seen) == 4


def test_bytes_do_not_wander_between_files(tmp_path: Path) -> None:
    for name, first, second in (("one", "ab", "c"), ("two", "a", "bc")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(first)
        (tmp_path / name / "y").write_text(second)
    assert digest(tmp_path / "one") != digest(tmp_path / "two")


def test_memory_stays_bounded(tmp_path: Path) -> None:
    with (tmp_path / "big.gguf").open("wb") as file:
        file.truncate(256 * 1024**2)
    tracemalloc.start()
    digest(tmp_path / "big.gguf")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 1024**2


def test_unsafe_folders_have_no_digest(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    (folder / "x").symlink_to("/etc/passwd")
    with pytest.raises(DropRejected):
        digest(folder)


def test_a_digest_is_of_names_sizes_and_contents(tmp_path: Path) -> None:
    """Published: it stays the same over all versions."""
    (tmp_path / "sub").mkdir()
    for name, data in (("sub/ü", b"abc"), ("a", b"")):
        (tmp_path / name).write_bytes(data)
    name = "sub/ü".encode()
    whole = b"\0\0\0\1a" + bytes(8) + b"\0\0\0\6" + name + b"\0\0\0\0\0\0\0\3abc"
    assert digest(tmp_path) == f"sha256:{hashlib.sha256(whole).hexdigest()}"


def test_a_file_larger_than_one_read_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(bytes(range(250)))
    before = digest(tmp_path / "a")
    monkeypatch.setattr("modelium.analysis.checks.digest._CHUNK", 100)
    assert digest(tmp_path / "a") == before


@pytest.mark.parametrize(
    ("number", "refusal"),
    [
        (errno.EIO, None),
        (errno.EACCES, ("'a' cannot be read: PermissionError.", "unreadable")),
    ],
)
def test_a_file_that_cannot_be_read_has_no_digest(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    refusal: tuple[str, str] | None,
) -> None:
    (tmp_path / "a").touch()

    def opened(_path: Path, _mode: str, *, buffering: int) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(Path, "open", opened)
    if refusal is None:
        with pytest.raises(OSError, match="no"):
            digest(tmp_path)
    else:
        with pytest.raises(DropRejected) as caught:
            digest(tmp_path)
        assert (str(caught.value), caught.value.reason) == refusal


@pytest.mark.parametrize("size", [2, 4])
def test_a_file_that_changes_meanwhile_has_no_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    (tmp_path / "a").write_bytes(b"123")
    opened = Path.open

    def changing(path: Path, mode: str, *, buffering: int) -> object:
        os.truncate(path, size)
        return opened(path, mode, buffering=buffering)

    monkeypatch.setattr(Path, "open", changing)
    with pytest.raises(DropRejected) as caught:
        digest(tmp_path)
    assert (str(caught.value), caught.value.reason) == (
        "'a' changed while it was read. Drop it again when the copy is complete.",
        "changed",
    )


# --- the seal -------------------------------------------------------------------------------------


def test_a_seal_stays_until_a_file_changes(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for name in "ab":
        (folder / name).write_bytes(b"123")
    found = seal(folder)
    assert found == seal(folder)
    infos = [(folder / name).lstat() for name in "ab"]
    known = "".join(
        f"{name}\0{(i.st_ino, i.st_size, i.st_mtime_ns, i.st_ctime_ns)}\n"
        for name, i in zip("ab", infos, strict=True)
    )
    assert found == f"sha256:{hashlib.sha256(known.encode()).hexdigest()}"
    (folder / "b").rename(folder / "c")
    assert seal(folder) != found


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOENT])
def test_a_file_that_goes_meanwhile_has_no_seal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (tmp_path / "a").touch()
    lstat = os.lstat

    def gone(path: Path) -> os.stat_result:
        if Path(path).name == "a":
            raise OSError(number, "no")
        return lstat(path)

    monkeypatch.setattr(os, "lstat", gone)
    if number == errno.EIO:
        with pytest.raises(OSError, match="no"):
            seal(tmp_path)
    else:
        with pytest.raises(DropRejected) as caught:
            seal(tmp_path)
        assert (str(caught.value), caught.value.reason) == ("'a' is gone.", "changed")
