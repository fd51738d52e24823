"""What a drop lacks, in the words that are reported."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from modelium.analysis import is_complete
from modelium.analysis.checks import completeness as module
from modelium.analysis.checks.completeness import PARTIAL_SUFFIXES
from tests.modelium.analysis.files import gguf_folder, onnx_model, write_json, write_safetensors

INDEX = "m.safetensors.index.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "m").mkdir()
    return tmp_path / "m"


def put(root: Path, *names: str, data: bytes = b"x") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


# --- the folder -----------------------------------------------------------------------------------


def test_what_cannot_be_taken_counts_as_complete(root: Path) -> None:
    """A link, and a folder with one: ingest refuses them."""
    (root.parent / "link").symlink_to(root)
    assert is_complete(root.parent / "link") is None
    assert is_complete(root) == "the folder is empty"
    put(root, "a.part")
    (root / "link").symlink_to("/etc/passwd")
    assert is_complete(root) is None


def test_what_cannot_be_read_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(root, "a")
    assert is_complete(root / "gone") == f"{root}/gone does not exist."

    def failing(number: int) -> None:
        def scandir(_path: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "scandir", scandir)

    failing(errno.EIO)
    assert is_complete(root) == "it cannot be read now: Input/output error"
    failing(errno.EACCES)
    assert is_complete(root) == (
        f"{root} cannot be read: PermissionError. Check that it exists and is readable."
    )


def test_a_file_that_cannot_be_read_now(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(root, "config.json", data=b"{}")

    def opened(_path: Path, _mode: str) -> None:
        raise OSError(errno.ESTALE, "no")

    monkeypatch.setattr(Path, "open", opened)
    assert is_complete(root) == "it changed while it was read (OSError)"


def test_one_empty_file_is_no_model(root: Path) -> None:
    put(root, "a", data=b"")
    assert is_complete(root) == is_complete(root / "a") == "a is empty"
    put(root, "b", data=b"")
    assert is_complete(root) is None
    assert is_complete(root / "b") == "b is empty"
    put(root, "b", data=b"1")
    assert is_complete(root / "b") is None


# --- partial downloads ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", PARTIAL_SUFFIXES)
def test_marks_of_unfinished_files(root: Path, suffix: str) -> None:
    name = f"a/m.GGUF{suffix.upper()}"
    put(root, name)
    assert is_complete(root) == f"{name} is a partial download"
    (root / name).rename(root / "a" / f"m{suffix}.txt")
    assert is_complete(root) is None


@pytest.mark.parametrize(
    ("name", "partial"),
    [
        (".m.gguf.Xy12Ab", True),
        ("sub/.m.123456", True),
        (".m.gguf.Xy12A", False),
        (".m.gguf.Xy12Abc", False),
        (".m.gguf.Xy12A-", False),
        ("m.gguf.Xy12Ab", False),
    ],
)
def test_temporary_names_of_rsync(root: Path, name: str, partial: bool) -> None:
    put(root, name)
    assert is_complete(root) == (f"{name} is a partial download" if partial else None)


def test_only_unfinished_files_of_a_clients_cache_count(root: Path) -> None:
    put(root, ".cache/a.tmp", "sub/.cache/b.part")
    assert is_complete(root) is None
    put(root, "x.cache/c.tmp")
    assert is_complete(root) is None
    put(root, "z.part")
    assert is_complete(root) == "z.part is a partial download"
    put(root, "sub/.cache/c.incomplete")
    assert is_complete(root) == "sub/.cache/c.incomplete is a partial download"


# --- shards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "sub/"])
def test_an_index_names_what_is_missing(root: Path, prefix: str) -> None:
    weight_map = {"c": "c.txt", "a": "a.txt", "b": "deep/b.txt"}
    write_json(root / prefix / INDEX, {"weight_map": weight_map})
    for name in ("a.txt", "c.txt", "deep/b.txt"):
        assert is_complete(root) == f"{prefix}{name} of {prefix}{INDEX} is missing"
        put(root, f"{prefix}{name}")
    assert is_complete(root) is None


def test_an_index_of_another_kind_is_left_to_the_profile(root: Path) -> None:
    write_json(root / f"a{INDEX}", {"weight_map": None})
    put(root, "m-00002-of-00002.bin")
    assert is_complete(root) == "m-00001-of-00002.bin is missing"
    write_json(root / f"b{INDEX}", {"weight_map": {"a": "gone"}})
    assert is_complete(root) == f"gone of b{INDEX} is missing"
    (root / f"a{INDEX}").write_text("7 8")
    assert is_complete(root) == (
        f"a{INDEX} is not valid JSON (Extra data: line 1 column 3 (char 2)). Copy it again."
    )


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["m-00001-of-00001.gguf2"], None),
        (["m-00001-of-00003.x", "m-00003-of-00003.x"], "m-00002-of-00003.x is missing"),
        (["m-00001-of-00002.x", "m-00002-of-00002.y"], "m-00002-of-00002.x is missing"),
        (["m-00001-of-00002.x", "n-00002-of-00002.x"], "m-00002-of-00002.x is missing"),
        (["s/m-00002-of-00002.x", "m-00001-of-00002.x"], "m-00002-of-00002.x is missing"),
        (["m-00002-of-00002.x", "m-00001-of-00003.x"], "m-00001-of-00002.x is missing"),
        (["m-1-of-2.x", "m-00001-of-00002"], None),
        (["a-00001-of-00004.x", "m-00001-of-00002.x"], "m-00002-of-00002.x is missing"),
        (["a-00001-of-00003.x"], "a-00002-of-00003.x is missing"),
    ],
)
def test_a_series_is_whole(
    root: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], missing: str | None
) -> None:
    monkeypatch.setattr(module, "MAX_SHARDS", 3)
    put(root, *names)
    put(root, "another")
    assert is_complete(root) == missing


# --- short files ----------------------------------------------------------------------------------


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_each_format_is_looked_at(root: Path) -> None:
    write_safetensors(root / "a.SAFETENSORS", {"t": ("F32", (4,))})
    gguf_folder(root)
    (root / "sub").mkdir()
    (root / "sub" / "m.onnx").write_bytes(onnx_model(external="w"))
    put(root, "sub/w", data=bytes(128))
    put(root, "x_config.json", data=b"{}")
    put(root, "y.json", data=b"{")
    assert is_complete(root) is None
    short = {}
    for name in ("x_config.json", "sub/w", "sub/m.onnx", "model.gguf", "a.SAFETENSORS"):
        shorten(root / name)
        short[name] = is_complete(root)
    assert short == {
        "x_config.json": "x_config.json is not valid JSON (Expecting property name enclosed in "
        "double quotes: line 1 column 2 (char 1)). Copy it again.",
        "sub/w": "sub/w of sub/m.onnx has 127 of 128 bytes",
        "sub/m.onnx": "sub/m.onnx: it is cut off or damaged (a field is longer than its message). "
        "Export or copy it again.",
        "model.gguf": "model.gguf: the file ends before its last tensor. "
        "Download or convert it again.",
        "a.SAFETENSORS": "a.SAFETENSORS: the file has 119 bytes instead of 120. "
        "Download or convert the file again.",
    }


def test_what_is_damaged_otherwise_is_left_to_the_profile(root: Path) -> None:
    put(root, "a.onnx", "b.gguf", data=b"GGUX" * 20)
    put(root, "c_config.json", data=b"[]")
    assert is_complete(root) is None
    put(root, "d.safetensors", data=b"x")
    assert is_complete(root) == (
        "d.safetensors: the header is longer than the file. Download or convert the file again."
    )
