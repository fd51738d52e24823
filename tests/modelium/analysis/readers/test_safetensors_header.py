"""Safetensors headers: read exactly, or refused."""

import errno
import json
import struct
from pathlib import Path

import pytest

from modelium.analysis.readers import safetensors_header as module
from modelium.analysis.readers.gguf_header import read_gguf
from modelium.analysis.readers.onnx_graph import read_graph
from modelium.analysis.readers.safetensors_header import MAX_HEADER_BYTES, Tensor, read_header
from modelium.errors import DropRejected
from tests.modelium.analysis.files import header_of, write_raw_safetensors, write_safetensors


def reason_of(path: Path) -> str:
    with pytest.raises(DropRejected) as caught:
        read_header(path, "x")
    return caught.value.reason


def test_tensors_are_read_as_the_reference_library_wrote_them(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file(
        {
            "a": np.zeros((3, 4), np.float32),
            "b": np.zeros(5, np.int8),
            "c": np.zeros((), np.float16),
        },
        tmp_path / "m.safetensors",
    )
    found = {
        t.name: (t.dtype, t.shape, t.size) for t in read_header(tmp_path / "m.safetensors", "x")
    }
    assert found == {"a": ("F32", (3, 4), 48), "b": ("I8", (5,), 5), "c": ("F16", (), 2)}


def test_four_bit_types_are_packed(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "m", {"a": ("F4", (4, 8)), "b": ("F8_E4M3", (2,))})
    assert [t.size for t in read_header(tmp_path / "m", "x")] == [16, 2]


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10_000])
def test_a_header_longer_than_the_file_is_not_read(tmp_path: Path, length: int) -> None:
    write_raw_safetensors(tmp_path / "m", b"{}", 0, length=length)
    assert reason_of(tmp_path / "m") == "truncated"


def test_a_header_length_bomb_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "m").open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER_BYTES + 1))
        file.truncate(MAX_HEADER_BYTES * 4)
    assert reason_of(tmp_path / "m") == "header-too-large"


@pytest.mark.parametrize("size", [0, 1, 7])
def test_files_without_room_for_a_length_are_truncated(tmp_path: Path, size: int) -> None:
    (tmp_path / "m").write_bytes(bytes(size))
    assert reason_of(tmp_path / "m") == "truncated"


def test_duplicate_tensors_are_refused(tmp_path: Path) -> None:
    one = b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    write_raw_safetensors(tmp_path / "m", b"{" + one + b"," + one + b"}", 1)
    assert reason_of(tmp_path / "m") == "duplicate-key"


def test_absurd_counts_are_refused_before_they_are_parsed(tmp_path: Path) -> None:
    write_raw_safetensors(tmp_path / "m", b"{" + b'"a":{},' * 500_000 + b'"b":{}}', 0)
    assert reason_of(tmp_path / "m") == "absurd-counts"


SHAPE, OFFSETS = "has an invalid shape", "has invalid offsets"


@pytest.mark.parametrize(
    ("dtype", "shape", "offsets", "why"),
    [
        ("U8", [4], [0, 3], "has offsets that do not match its shape"),
        ("U8", [4], [4, 0], "has offsets that do not match its shape"),
        ("F4", [3], [0, 1], "has offsets that do not match its shape"),
        ("U8", [4], [1, 5], "overlaps another or leaves a gap"),
        ("U8", [4], [2**63 - 5, 2**63 - 1], "overlaps another or leaves a gap"),
        ("U8", [-4], [0, 4], SHAPE),
        ("U8", [4.0], [0, 4], SHAPE),
        ("U8", [True, 4], [0, 4], SHAPE),
        ("U8", [0, 2**48], [0, 0], SHAPE),
        ("U8", [1] * 17, [0, 1], SHAPE),
        ("U8", "4", [0, 4], SHAPE),
        ("U8", None, [0, 4], SHAPE),
        ("U8", [4], "04", OFFSETS),
        ("U8", [4], None, OFFSETS),
        ("U8", [4], [0, 4, 4], OFFSETS),
        ("U8", [4], [-1, 3], OFFSETS),
        ("U8", [1], [False, True], OFFSETS),
        ("U8", [4], [0, 4.0], OFFSETS),
        ("U8", [4], [2**63 - 4, 2**63], OFFSETS),
        ("X\n", [4], [0, 4], "has the unknown type 'X?'"),
        (["U8"], [4], [0, 4], "has the unknown type \"['U8']\""),
    ],
)
def test_impossible_tensors_are_refused(
    tmp_path: Path, dtype: object, shape: object, offsets: object, why: str
) -> None:
    entry = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    write_raw_safetensors(tmp_path / "m", json.dumps({"a\n": entry}).encode(), 4)
    with pytest.raises(DropRejected) as caught:
        read_header(tmp_path / "m", "x")
    assert (str(caught.value), caught.value.reason) == (
        f"x: tensor 'a?' {why}. Download or convert the file again.",
        "bad-safetensors",
    )


@pytest.mark.parametrize("header", [{"a": [1, 2]}, {"a": None}, {"__metadata__": []}])
def test_entries_are_objects(tmp_path: Path, header: object) -> None:
    write_raw_safetensors(tmp_path / "m", json.dumps(header).encode(), 0)
    with pytest.raises(DropRejected, match="is not an object") as caught:
        read_header(tmp_path / "m", "x")
    assert caught.value.reason == "bad-safetensors"


@pytest.mark.parametrize(
    ("dtype", "shape", "size", "elements"),
    [
        ("F32", (), 4, 1),
        ("U8", (1,) * 16, 1, 1),
        ("U8", (0, 2**48 - 1), 0, 0),
        ("F4", (4,), 2, 4),
        ("F6_E2M3", (4,), 3, 4),
        ("I64", (2, 3), 48, 6),
    ],
)
def test_tensors_at_the_limits_are_read(
    tmp_path: Path, dtype: str, shape: tuple[int, ...], size: int, elements: int
) -> None:
    write_safetensors(tmp_path / "m", {"a": (dtype, shape)})
    (found,) = read_header(tmp_path / "m", "x")
    assert found == Tensor("a", dtype, shape, size)
    assert found.elements == elements


def test_a_part_of_a_byte_is_a_byte(tmp_path: Path) -> None:
    entry = {"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}
    write_raw_safetensors(tmp_path / "m", json.dumps({"a": entry}).encode(), 2)
    assert [tensor.size for tensor in read_header(tmp_path / "m", "x")] == [2]


def test_tensors_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    header = {
        name: {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
        for name, begin, end in (("a", 4, 6), ("b", 0, 4), ("d", 4, 4), ("c", 6, 7))
    }
    write_raw_safetensors(tmp_path / "m", json.dumps(header).encode(), 7)
    assert [tensor.name for tensor in read_header(tmp_path / "m", "x")] == ["b", "d", "a", "c"]


def test_a_header_of_the_largest_size_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_HEADER_BYTES", 2)
    write_raw_safetensors(tmp_path / "m", b"{}", 0)
    assert read_header(tmp_path / "m", "x") == []
    write_raw_safetensors(tmp_path / "m", b"{} ", 0)
    with pytest.raises(DropRejected) as caught:
        read_header(tmp_path / "m", "x")
    assert (str(caught.value), caught.value.reason) == (
        "x: the header has 3 bytes; the limit is 2. Download or convert the file again.",
        "header-too-large",
    )


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_an_error_of_the_machine_says_nothing_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def opened(_path: Path, _mode: str) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(Path, "open", opened)
    for read in (read_header, read_gguf, read_graph):
        if number == errno.EIO:
            with pytest.raises(OSError, match="no"):
                read(tmp_path / "m", "x")
        else:
            with pytest.raises(DropRejected) as caught:
                read(tmp_path / "m", "x")
            assert (str(caught.value), caught.value.reason) == (
                "x cannot be read: PermissionError. Check its permissions.",
                "unreadable",
            )


def test_overlapping_tensors_are_refused(tmp_path: Path) -> None:
    header = {
        name: {"dtype": "U8", "shape": [4], "data_offsets": offsets}
        for name, offsets in (("a", [0, 4]), ("b", [2, 6]))
    }
    write_raw_safetensors(tmp_path / "m", json.dumps(header).encode(), 6)
    assert reason_of(tmp_path / "m") == "bad-safetensors"


@pytest.mark.parametrize(("change", "reason"), [(-1, "truncated"), (1, "bad-safetensors")])
def test_the_file_is_as_long_as_its_tensors(tmp_path: Path, change: int, reason: str) -> None:
    header, size = header_of({"a": ("F32", (4,))})
    write_raw_safetensors(tmp_path / "m", header, size + change)
    with pytest.raises(DropRejected) as caught:
        read_header(tmp_path / "m", "x")
    whole = 8 + len(header) + 16
    assert (str(caught.value), caught.value.reason) == (
        f"x: the file has {whole + change} bytes instead of {whole}. "
        "Download or convert the file again.",
        reason,
    )
