"""What is read of a GGUF header, value by value, and what is refused."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from modelium.analysis.readers import gguf_header as module
from modelium.analysis.readers.gguf_header import TYPES, Header, integer, read_gguf
from modelium.errors import DropRejected
from tests.modelium.analysis.files import text

ARRAY, STRING, U8, I32, U32, U64 = 9, 8, 0, 5, 4, 10
F32, Q4_0, Q4_K = 0, 2, 12
FLOAT_TENSOR = ("t", (4,), F32, 0)

Tensor = tuple[str, Sequence[int], int, int]
"""Name, shape, ggml type, offset."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "m.gguf"


def value(kind: int, packed: bytes) -> bytes:
    return struct.pack("<I", kind) + packed


def array(kind: int, length: int, packed: bytes) -> bytes:
    return value(ARRAY, struct.pack("<IQ", kind, length) + packed)


def table(*tensors: Tensor) -> bytes:
    out = b""
    for name, shape, kind, offset in tensors:
        out += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        out += struct.pack("<IQ", kind, offset)
    return out


def header(
    entries: Sequence[tuple[str, bytes]] = (), tensors: Sequence[Tensor] = (), version: int = 3
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries))
    return head + b"".join(text(key) + packed for key, packed in entries) + table(*tensors)


def read(file: Path, data: bytes, size: int | None = None) -> Header:
    """Read a file of ``data`` that is cut at or filled to ``size``; default: a multiple of 32."""
    with file.open("wb") as out:
        out.write(data)
        out.truncate(-(-len(data) // 32) * 32 if size is None else size)
    return read_gguf(file, "m.gguf")


def refused(file: Path, data: bytes, size: int | None = None) -> tuple[str, str]:
    with pytest.raises(DropRejected) as caught:
        read(file, data, size)
    return str(caught.value), caught.value.reason


def bad(why: str) -> str:
    return f"m.gguf: {why}. Download or convert it again."


def metadata(file: Path, *packed: bytes) -> list[Any]:
    """What is read of these values."""
    entries = [(str(number), each) for number, each in enumerate(packed)]
    return list(read(file, header(entries)).metadata.values())


# --- metadata -------------------------------------------------------------------------------------


def test_an_empty_header(file: Path) -> None:
    for version in (2, 3):
        found = read(file, header(version=version), 32)
        assert found == Header(version=version)


def test_every_type_of_value_is_read(file: Path) -> None:
    values = {
        U8: ("<B", 200), 1: ("<b", -3), 2: ("<H", 65000), 3: ("<h", -300), U32: ("<I", 2**31),
        I32: ("<i", -(2**31)), 6: ("<f", 0.5), 7: ("<?", True), U64: ("<Q", 2**63),
        11: ("<q", -(2**62)), 12: ("<d", 0.1),
    }  # fmt: skip
    packed = [value(kind, struct.pack(form, plain)) for kind, (form, plain) in values.items()]
    packed += [value(STRING, text("grüß")), value(STRING, text(""))]
    assert metadata(file, *packed) == [*(plain for _form, plain in values.values()), "grüß", ""]


def test_of_an_array_length_and_short_numbers_are_kept(file: Path) -> None:
    entries = [
        ("n", array(I32, 2, struct.pack("<2i", -1, 7))),
        ("t", array(STRING, 2, text("ab") + text(""))),
        ("kept", array(U8, 2048, bytes([1]) * 2048)),
        ("long", array(U8, 2049, bytes(2049))),
        ("none", array(U8, 0, b"")),
        ("last", value(U8, b"\x05")),
    ]
    assert read(file, header(entries)).metadata == {
        "n.length": 2, "n": [-1, 7], "t.length": 2, "t": [], "kept.length": 2048,
        "kept": [1] * 2048, "long.length": 2049, "long": [], "none.length": 0, "none": [],
        "last": 5,
    }  # fmt: skip


def test_the_beginning_of_a_long_text_is_kept(file: Path) -> None:
    assert metadata(file, value(STRING, text("x" * 8000)), value(STRING, text("y" * 8001))) == [
        "x" * 8000,
        "y" * 8000,
    ]
    assert metadata(file, value(STRING, text("x")[:8] + b"\xff")) == ["�"]


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        (value(13, b""), "a metadata value has the unknown type 13"),
        (array(13, 0, b""), "an array has the unknown element type 13"),
        (array(ARRAY, 0, b""), "an array has the unknown element type 9"),
    ],
)
def test_unknown_types_are_refused(file: Path, packed: bytes, why: str) -> None:
    assert refused(file, header([("k", packed)])) == (bad(why), "bad-gguf")


def test_an_entry_occurs_once(file: Path) -> None:
    entries = [("k\n", value(U8, b"\1")), ("k\n", value(U8, b"\1"))]
    assert refused(file, header(entries)) == (bad("the entry 'k?' occurs twice"), "bad-gguf")


def test_strings_and_arrays_have_limits(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ARRAY", 3)
    monkeypatch.setattr(module, "MAX_STRING", 4)
    assert read(file, header([("k", array(U8, 3, b"abc"))])).metadata["k.length"] == 3
    assert refused(file, header([("k", array(U8, 4, b"abcd"))])) == (
        bad("an array has 4 elements; the limit is 3"),
        "absurd-counts",
    )
    assert read(file, header([("k", array(STRING, 1, text("abcd")))])).metadata["k.length"] == 1
    assert refused(file, header([("k", array(STRING, 1, text("abcde")))])) == (
        bad("a string has 5 bytes; the limit is 4"),
        "absurd-counts",
    )


def test_names_have_a_limit(file: Path) -> None:
    why = (bad("a string has 1025 bytes; the limit is 1024"), "absurd-counts")
    entry = value(U8, b"\1")
    assert len(read(file, header([("k" * 1024, entry)])).metadata) == 1
    assert refused(file, header([("k" * 1025, entry)])) == why
    tensor = (4,), F32, 0
    assert len(read(file, header(tensors=[("t" * 1024, *tensor)]), 2000).names) == 1
    assert refused(file, header(tensors=[("t" * 1025, *tensor)])) == why


def test_a_long_text_of_metadata_has_a_limit(file: Path) -> None:
    cut = value(STRING, struct.pack("<Q", module.MAX_STRING + 1))
    assert refused(file, header([("k", cut)])) == (
        bad("a string has 4194305 bytes; the limit is 4194304"),
        "absurd-counts",
    )
    cut = value(STRING, struct.pack("<Q", module.MAX_STRING))
    assert refused(file, header([("k", cut)]))[1] == "truncated"


# --- the file -------------------------------------------------------------------------------------


def test_what_is_no_gguf_of_a_known_version_is_refused(file: Path) -> None:
    why = bad("it does not begin with the magic bytes GGUF")
    assert refused(file, b"GGML" + header()[4:]) == (why, "bad-gguf")
    for version in (1, 4):
        why = bad(f"version {version} is not supported (2 and 3 are)")
        assert refused(file, header(version=version)) == (why, "bad-gguf")


def test_counts_have_limits(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TENSORS", 1)
    monkeypatch.setattr(module, "MAX_METADATA", 2)
    for tensors, entries in ((2, 0), (0, 3)):
        counts = struct.pack("<QQ", tensors, entries)
        why = f"it declares {tensors} tensors and {entries} metadata entries, more than any model"
        assert refused(file, header()[:8] + counts) == (bad(why), "absurd-counts")
    entries_ = [("a", value(U8, b"\1")), ("b", value(U8, b"\2"))]
    found = read(file, header(entries_, [FLOAT_TENSOR]), 200)
    assert (found.tensors, len(found.metadata)) == (1, 2)


def test_a_header_that_the_file_cuts_anywhere_is_truncated(file: Path) -> None:
    entries = [("k", array(STRING, 1, text("abc"))), ("n", value(U64, bytes(8)))]
    data = header(entries, [FLOAT_TENSOR])
    for end in range(len(data)):
        assert refused(file, data, end)[1] == "truncated", end
    assert refused(file, data, 3)[0] == bad("the file ends inside its header")


def test_a_header_may_be_all_of_its_file(file: Path) -> None:
    data = header([("k" * 27, value(U8, b"\1"))])
    assert read(file, data, 64).metadata == {"k" * 27: 1}


def test_a_header_has_a_limit(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = header([("k", array(STRING, 1, text("abc")))])
    monkeypatch.setattr(module, "MAX_HEADER_BYTES", len(data))
    read(file, data, 500)
    monkeypatch.setattr(module, "MAX_HEADER_BYTES", len(data) - 1)
    assert refused(file, data, 500) == (
        bad(f"the header exceeds the file or {len(data) - 1} bytes"),
        "truncated",
    )
    data = header([("k", value(STRING, text("abc")))])
    monkeypatch.setattr(module, "MAX_HEADER_BYTES", len(data))
    read(file, data, 500)
    monkeypatch.setattr(module, "MAX_HEADER_BYTES", len(data) - 1)
    why = bad(f"the header exceeds {len(data) - 1} bytes")
    assert refused(file, data, 500) == (why, "header-too-large")


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(DropRejected) as caught:
        read_gguf(tmp_path, "m.gguf")
    assert (str(caught.value), caught.value.reason) == (
        "m.gguf cannot be read: IsADirectoryError. Check its permissions.",
        "unreadable",
    )


# --- tensors --------------------------------------------------------------------------------------


def test_tensors_add_up(file: Path) -> None:
    data = header(
        tensors=[
            ("a", (32, 2), Q4_0, 64),
            ("b", (256,), Q4_K, 128),
            ("c", (3, 5), F32, 0),
            ("d", (32,), Q4_0, 512),
        ]
    )
    assert read(file, data, 2000) == Header(
        version=3,
        tensors=4,
        elements=64 + 256 + 15 + 32,
        bytes=36 + 144 + 60 + 18,
        bytes_by_type={"Q4_0": 54, "Q4_K": 144, "F32": 60},
        names={"a", "b", "c", "d"},
    )


@pytest.mark.parametrize("kind", TYPES)
def test_a_block_of_every_type(file: Path, kind: int) -> None:
    name, elements, size = TYPES[kind]
    data = header(tensors=[("t", (elements,), kind, 0)])
    start = -(-len(data) // 32) * 32
    found = read(file, data, start + size)
    assert (found.elements, found.bytes_by_type) == (elements, {name: size})
    assert refused(file, data, start + size - 1)[1] == "truncated"


@pytest.mark.parametrize(
    ("tensors", "why", "reason"),
    [
        ([("t\n", (1,), F32, 0)] * 2, "the tensor 't?' occurs twice", "duplicate-tensor"),
        ([("t", (1,) * 9, F32, 0)], "a tensor has rank 9", "absurd-counts"),
        ([("t", (1,), 4, 0)], "the tensor 't' has the unknown type 4", "bad-gguf"),
        ([("t", (0, 2**48), F32, 0)], "the tensor 't' has an invalid shape", "bad-gguf"),
        ([("t", (33,), Q4_0, 0)], "the tensor 't' is not a whole number of blocks", "bad-gguf"),
        ([("a", (4,), F32, 0), ("b", (4,), F32, 15)], "two tensors overlap", "bad-gguf"),
        ([("a", (4,), F32, 15), ("b", (4,), F32, 0)], "two tensors overlap", "bad-gguf"),
    ],
)
def test_tensors_that_cannot_be_are_refused(
    file: Path, tensors: list[Tensor], why: str, reason: str
) -> None:
    assert refused(file, header(tensors=tensors), 1000) == (bad(why), reason)


def test_tensors_at_the_limits_are_not(file: Path) -> None:
    found = read(file, header(tensors=[("t", (1,) * 8, F32, 0), ("u", (4,), F32, 4)]), 1000)
    assert found.elements == 5
    assert read(file, header(tensors=[("t", (0, 2**48 - 1), F32, 0)]), 1000).elements == 0
    assert read(file, header(tensors=[("t", (), F32, 0)]), 1000).elements == 1


@pytest.mark.parametrize("alignment", [1, 7, 64, 2**20])
def test_tensors_begin_where_the_alignment_says(file: Path, alignment: int) -> None:
    aligned = ("general.alignment", value(U32, struct.pack("<I", alignment)))
    data = header([aligned], [FLOAT_TENSOR])
    start = -(-len(data) // alignment) * alignment
    assert read(file, data, start + 16).bytes == 16
    assert refused(file, data, start + 15) == (
        bad("the file ends before its last tensor"),
        "truncated",
    )


@pytest.mark.parametrize(
    ("kind", "form", "alignment"),
    [(I32, "<i", 0), (I32, "<i", -1), (I32, "<i", 2**20 + 1), (6, "<f", 32.0)],
)
def test_an_alignment_is_a_number_within_limits(
    file: Path, kind: int, form: str, alignment: float
) -> None:
    entry = ("general.alignment", value(kind, struct.pack(form, alignment)))
    assert refused(file, header([entry])) == (bad("general.alignment is invalid"), "bad-gguf")


# --- integers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "number"),
    [
        (0, 0),
        (7, 7),
        (2**40 - 1, 2**40 - 1),
        (2**40, None),
        (-1, None),
        (True, None),
        (7.0, None),
        ("7", None),
        ([2, 9, 4], 9),
        ([2], 2),
        ([], None),
        ([2, True], None),
        ([2, 2**40], None),
    ],
)
def test_an_integer_of_the_metadata(found: object, number: int | None) -> None:
    assert integer({"k": found}, "k") == number
    assert integer({"k": found}, "other") is None
