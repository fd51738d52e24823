"""Reads Protobuf's wire format from a file: the positions of fields, without their payload.

One message of an ONNX file may have gigabytes, which a generated parser would read. See
https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from modelium.errors import DropRejected

MAX_FIELDS = 3_000_000
"""Reading as many takes a few seconds; published graphs have a few hundred thousand."""
MAX_STRING = 64 * 1024
_WINDOW = 64 * 1024
CUT_OFF = "it is cut off or damaged (a field is longer than its message)"
"""Of a file that an interrupted copy left; a newcomer to the format knows what to do."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field: ``value`` of a varint, or the positions ``begin``…``end`` of any other payload."""

    number: int
    kind: int
    """Wire type: 0 varint, 1 fixed64, 2 length-delimited, 5 fixed32."""
    value: int = 0
    begin: int = 0
    end: int = 0


class Wire:
    """Reads the fields of one file; raises `DropRejected` if it is malformed or exceeds a limit."""

    def __init__(self, file: BinaryIO, *, what: str) -> None:
        """``what`` names the file in messages."""
        self._file = file
        self._what = what
        self.size = file.seek(0, 2)
        self._at = 0
        self._window = b""
        self._left = MAX_FIELDS

    def bad(self, why: str, reason: str = "bad-protobuf") -> DropRejected:
        """Return the error for this file."""
        return DropRejected(f"{self._what}: {why}. Export or copy it again.", reason=reason)

    def _byte(self, position: int) -> int:
        offset = position - self._at
        if not 0 <= offset < len(self._window):
            self._file.seek(position)
            self._window = self._file.read(_WINDOW)
            self._at = position
            offset = 0
            if not self._window:
                raise self.bad("it is cut off (the file ends inside a field)", "truncated")
        return self._window[offset]

    def varint(self, position: int) -> tuple[int, int]:
        """Return the value (unsigned, 64 bits) and the position after it."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte(position)
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (2**64 - 1), position
        raise self.bad("a varint is longer than 10 bytes")

    def fields(self, begin: int, end: int) -> Iterator[Field]:
        """Yield the fields of the message at ``begin``…``end``."""
        position = begin
        while position < end:
            self._left -= 1
            if self._left < 0:
                raise self.bad(f"it has more than {MAX_FIELDS} fields", "absurd-counts")
            tag, position = self.varint(position)
            number, kind = tag >> 3, tag & 7
            if kind == 0:
                value, position = self.varint(position)
                yield Field(number, kind, value=value)
            elif kind in {1, 5}:
                start, position = position, position + (8 if kind == 1 else 4)
                yield Field(number, kind, begin=start, end=position)
            elif kind == 2:
                length, start = self.varint(position)
                position = start + length
                if position > end:
                    raise self.bad(CUT_OFF, "truncated")
                yield Field(number, kind, begin=start, end=position)
            else:
                raise self.bad(f"a field has the unknown wire type {kind}")
        if position != end:
            raise self.bad(CUT_OFF, "truncated")

    def bytes(self, field: Field, *, limit: int = MAX_STRING) -> bytes:
        """Return the payload of a length-delimited field."""
        if field.kind != 2:
            raise self.bad(f"field {field.number} is not a string")
        if field.end - field.begin > limit:
            raise self.bad(
                f"a string has {field.end - field.begin} bytes; the limit is {limit}",
                "absurd-counts",
            )
        offset = field.begin - self._at
        if offset >= 0 and offset + field.end - field.begin <= len(self._window):
            return self._window[offset : offset + field.end - field.begin]
        self._file.seek(field.begin)
        return self._file.read(field.end - field.begin)

    def text(self, field: Field, *, limit: int = MAX_STRING) -> str:
        """Return the payload as text; undecodable bytes become replacement characters."""
        return self.bytes(field, limit=limit).decode("utf-8", "replace")

    def numbers(self, field: Field, *, limit: int) -> list[int]:
        """Return the signed 64-bit values of a repeated varint field, packed or not."""
        if field.kind == 0:
            return [_signed(field.value)]
        if field.kind != 2:
            raise self.bad(f"field {field.number} is not a list of numbers")
        found: list[int] = []
        position = field.begin
        while position < field.end:
            value, position = self.varint(position)
            found.append(_signed(value))
            if len(found) > limit:
                raise self.bad(f"a tensor has more than {limit} dimensions", "absurd-counts")
        return found


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
