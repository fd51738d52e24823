"""Safetensors headers: read exactly, or refused."""

import json
import struct
from pathlib import Path

import pytest

from modelium.analysis.readers.safetensors_header import MAX_HEADER_BYTES, read_header
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


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "U8", "shape": [4], "data_offsets": [0, 3]},
        {"dtype": "U8", "shape": [4], "data_offsets": [1, 5]},
        {"dtype": "U8", "shape": [-4], "data_offsets": [0, 4]},
        {"dtype": "U8", "shape": [4.0], "data_offsets": [0, 4]},
        {"dtype": "U8", "shape": [True, 4], "data_offsets": [0, 4]},
        {"dtype": "U8", "shape": [2**40, 2**40], "data_offsets": [0, 4]},
        {"dtype": "U8", "shape": [1] * 100, "data_offsets": [0, 4]},
        {"dtype": "X9", "shape": [4], "data_offsets": [0, 4]},
        {"dtype": ["U8"], "shape": [4], "data_offsets": [0, 4]},
        {"dtype": "U8", "shape": [4], "data_offsets": [4, 0]},
        {"dtype": "U8", "shape": [4], "data_offsets": "0,4"},
        {"dtype": "U8", "shape": [4]},
        [1, 2],
        None,
    ],
)
def test_impossible_tensors_are_refused(tmp_path: Path, entry: object) -> None:
    write_raw_safetensors(tmp_path / "m", json.dumps({"a": entry}).encode(), 4)
    assert reason_of(tmp_path / "m") == "bad-safetensors"


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
    assert reason_of(tmp_path / "m") == reason
