"""Writes Protobuf's wire format, also such that no library would write."""

from __future__ import annotations


def varint(value: int) -> bytes:
    found = b""
    while value >= 0x80:
        found, value = found + bytes([value & 0x7F | 0x80]), value >> 7
    return found + bytes([value])


def tag(number: int, kind: int) -> bytes:
    return varint(number << 3 | kind)


def field(number: int, value: int | str | bytes) -> bytes:
    """A varint (negative: in two's complement), or something with a length."""
    if isinstance(value, int):
        return tag(number, 0) + varint(value % 2**64)
    data = value.encode() if isinstance(value, str) else value
    return tag(number, 2) + varint(len(data)) + data
