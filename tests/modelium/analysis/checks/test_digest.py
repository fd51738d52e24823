"""The digest of a folder: contents and names, nothing else."""

import os
import tracemalloc
from pathlib import Path

import pytest

from modelium.analysis import digest
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
