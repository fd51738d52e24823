"""Reads safetensors headers: names, types and shapes of tensors, but no tensor data.

Layout: u64 length N (little endian), N bytes of JSON, then the bytes of the tensors; see the
safetensors README. The rules are those of its reference reader.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from modelium.analysis.readers.folder import json_object, shown, unreadable
from modelium.errors import DropRejected

MAX_HEADER_BYTES = 24 * 1024**2
"""The reference reader allows 100 MB; published headers stay below 12 MB."""
MAX_RANK = 16

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32,
    "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as described in a header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    """Bytes in the file."""

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def _bad(what: str, why: str, reason: str = "bad-safetensors") -> DropRejected:
    return DropRejected(f"{what}: {why}. Download or convert the file again.", reason=reason)


def _tensor(what: str, name: str, entry: object) -> tuple[Tensor, int, int]:
    if not isinstance(entry, dict):
        raise _bad(what, f"entry {shown(name)!r} is not an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _bad(what, f"tensor {shown(name)!r} has the unknown type {shown(str(dtype))!r}")
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_RANK
        or any(type(n) is not int or not 0 <= n < 2**48 for n in shape)
    ):
        raise _bad(what, f"tensor {shown(name)!r} has an invalid shape")
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or any(type(n) is not int or not 0 <= n < 2**63 for n in offsets)
    ):
        raise _bad(what, f"tensor {shown(name)!r} has invalid offsets")
    begin, end = offsets
    if (math.prod(shape) * BITS[dtype] + 7) // 8 != end - begin:
        raise _bad(what, f"tensor {shown(name)!r} has offsets that do not match its shape")
    return Tensor(name, dtype, tuple(shape), end - begin), begin, end


def read_header(path: Path, what: str) -> list[Tensor]:
    """Return the tensors of one file in file order; ``what`` names it in messages.

    Raises `DropRejected` if the header does not match the file exactly: wrong lengths, gaps,
    overlaps, duplicates, unknown types, a file longer or shorter than its tensors.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise _bad(what, "the header is longer than the file", "truncated")
            if length > MAX_HEADER_BYTES:
                raise _bad(
                    what,
                    f"the header has {length} bytes; the limit is {MAX_HEADER_BYTES}",
                    "header-too-large",
                )
            header = json_object(file.read(length), f"The header of {what}")
    except OSError as exc:
        raise unreadable(what, exc) from exc
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise _bad(what, "its metadata is not an object")
    found = sorted((_tensor(what, n, e) for n, e in header.items()), key=lambda t: (t[1], t[2]))
    position = 0
    for tensor, begin, end in found:
        if begin != position:
            raise _bad(what, f"tensor {shown(tensor.name)!r} overlaps another or leaves a gap")
        position = end
    if 8 + length + position != size:
        short = 8 + length + position > size
        raise _bad(
            what,
            f"the file has {size} bytes instead of {8 + length + position}",
            "truncated" if short else "bad-safetensors",
        )
    return [tensor for tensor, _, _ in found]
