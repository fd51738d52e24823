"""Reads the header of GGUF files: metadata and tensor table, but no tensors.

Layout: docs/gguf.md of ggml. Versions 2 and 3, little endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from modelium.analysis.readers.folder import shown, unreadable
from modelium.errors import DropRejected

MAX_TENSORS = 200_000
MAX_METADATA = 4096
MAX_ARRAY = 2_000_000
"""Limit for the elements of a metadata array; vocabularies have a few hundred thousand."""
MAX_STRING = 4 * 1024**2
"""Limit for the bytes of a string; the longest ones are chat templates."""
MAX_HEADER_BYTES = 256 * 1024**2
KEPT_TEXT = 2000

_SCALARS: dict[int, str] = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9

TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4),
    27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
"""ggml type → name, elements per block, bytes per block."""

FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M",
    30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip
"""``general.file_type`` → the common name of the quantization."""


@dataclass(kw_only=True)
class Header:
    """The header of one GGUF file."""

    version: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)
    """Scalars and strings; of arrays the length, under ``NAME.length``."""
    tensors: int = 0
    elements: int = 0
    bytes: int = 0
    bytes_by_type: dict[str, int] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)


class _Reader:
    def __init__(self, file: BinaryIO, what: str) -> None:
        self.file = file
        self.what = what
        self.size = file.seek(0, 2)
        file.seek(0)

    def bad(self, why: str, reason: str = "bad-gguf") -> DropRejected:
        return DropRejected(f"{self.what}: {why}. Download or convert it again.", reason=reason)

    def take(self, count: int) -> bytes:
        at = self.file.tell()
        if at + count > MAX_HEADER_BYTES:
            raise self.bad(f"the header exceeds {MAX_HEADER_BYTES} bytes", "header-too-large")
        found = self.file.read(count)
        if len(found) < count:
            raise self.bad("the file ends inside its header", "truncated")
        return found

    def skip(self, count: int) -> None:
        at = self.file.tell()
        if at + count > min(self.size, MAX_HEADER_BYTES):
            raise self.bad(f"the header exceeds the file or {MAX_HEADER_BYTES} bytes", "truncated")
        self.file.seek(count, 1)

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def string(self, *, limit: int = MAX_STRING) -> str:
        length = self.u64()
        if length > limit:
            raise self.bad(f"a string has {length} bytes; the limit is {limit}", "absurd-counts")
        return self.take(length).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()[: KEPT_TEXT * 4]
        if kind not in _SCALARS:
            raise self.bad(f"a metadata value has the unknown type {kind}")
        packed = _SCALARS[kind]
        return struct.unpack(packed, self.take(struct.calcsize(packed)))[0]

    def array(self) -> tuple[int, list[Any]]:
        """Return the length, and the elements of short numeric arrays (per-layer values)."""
        kind, length = self.u32(), self.u64()
        if length > MAX_ARRAY:
            raise self.bad(
                f"an array has {length} elements; the limit is {MAX_ARRAY}", "absurd-counts"
            )
        if kind == _STRING:
            for _ in range(length):
                size = self.u64()
                if size > MAX_STRING:
                    raise self.bad(
                        f"a string has {size} bytes; the limit is {MAX_STRING}", "absurd-counts"
                    )
                self.skip(size)
            return length, []
        if kind not in _SCALARS:
            raise self.bad(f"an array has the unknown element type {kind}")
        packed = _SCALARS[kind]
        data = self.take(struct.calcsize(packed) * length)
        short = length <= 2048
        return length, [v for (v,) in struct.iter_unpack(packed, data)] if short else []


def read_gguf(path: Path, what: str) -> Header:
    """Read the header of one file; ``what`` names it in messages.

    Raises `DropRejected` for counts above the limits, unknown types, and tensors that overlap or
    lie outside the file.
    """
    try:
        with path.open("rb") as file:
            return _header(_Reader(file, what))
    except OSError as exc:
        raise unreadable(what, exc) from exc


def _header(reader: _Reader) -> Header:
    if reader.take(4) != b"GGUF":
        raise reader.bad("it does not begin with the magic bytes GGUF")
    found = Header(version=reader.u32())
    if found.version not in {2, 3}:
        raise reader.bad(f"version {found.version} is not supported (2 and 3 are)")
    tensors, entries = reader.u64(), reader.u64()
    if tensors > MAX_TENSORS or entries > MAX_METADATA:
        raise reader.bad(
            f"it declares {tensors} tensors and {entries} metadata entries, more than any model",
            "absurd-counts",
        )
    for _ in range(entries):
        key = reader.string(limit=1024)
        if key in found.metadata:
            raise reader.bad(f"the entry {shown(key)!r} occurs twice")
        kind = reader.u32()
        if kind == _ARRAY:
            length, values = reader.array()
            found.metadata[f"{key}.length"] = length
            found.metadata[key] = values
        else:
            found.metadata[key] = reader.value(kind)
    _tensors(reader, found, tensors)
    return found


def _tensors(reader: _Reader, found: Header, count: int) -> None:
    spans: list[tuple[int, int]] = []
    for _ in range(count):
        name = reader.string(limit=1024)
        if name in found.names:
            raise reader.bad(f"the tensor {shown(name)!r} occurs twice", "duplicate-tensor")
        found.names.add(name)
        rank = reader.u32()
        if rank > 8:
            raise reader.bad(f"a tensor has rank {rank}", "absurd-counts")
        shape = [reader.u64() for _ in range(rank)]
        kind, offset = reader.u32(), reader.u64()
        if kind not in TYPES:
            raise reader.bad(f"the tensor {shown(name)!r} has the unknown type {kind}")
        if any(n >= 2**48 for n in shape):
            raise reader.bad(f"the tensor {shown(name)!r} has an invalid shape")
        label, per_block, block = TYPES[kind]
        elements = math.prod(shape)
        if elements % per_block:
            raise reader.bad(f"the tensor {shown(name)!r} is not a whole number of blocks")
        size = elements // per_block * block
        spans.append((offset, offset + size))
        found.elements += elements
        found.bytes += size
        found.bytes_by_type[label] = found.bytes_by_type.get(label, 0) + size
    found.tensors = count
    alignment = found.metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 2**20:
        raise reader.bad("general.alignment is invalid")
    start = -(-reader.file.tell() // alignment) * alignment
    position = 0
    for begin, end in sorted(spans):
        if begin < position:
            raise reader.bad("two tensors overlap")
        position = end
    if start + position > reader.size:
        raise reader.bad("the file ends before its last tensor", "truncated")


def integer(metadata: Mapping[str, Any], key: str) -> int | None:
    """Return a metadata integer; of a per-layer array, the largest element."""
    value = metadata.get(key)
    if isinstance(value, list) and value and all(type(v) is int for v in value):
        value = max(value)
    return value if type(value) is int and 0 <= value < 2**40 else None
