"""Protobuf's wire format: fields are found where they are, and nothing is read past an end."""

from __future__ import annotations

import io
import itertools
import re

import pytest

from modelium.analysis.readers import protobuf_wire as module
from modelium.analysis.readers.protobuf_wire import CUT_OFF, Field, Wire
from modelium.errors import DropRejected
from tests.modelium.analysis.readers.protobuf import field, tag, varint


def wire(data: bytes) -> Wire:
    return Wire(io.BytesIO(data), what="m.onnx")


def fields(data: bytes, begin: int = 0, end: int | None = None) -> list[Field]:
    return list(wire(data).fields(begin, len(data) if end is None else end))


def refused(data: bytes, why: str, reason: str, begin: int = 0, end: int | None = None) -> None:
    with pytest.raises(DropRejected) as caught:
        fields(data, begin, end)
    assert (str(caught.value), caught.value.reason) == (
        f"m.onnx: {why}. Export or copy it again.",
        reason,
    )


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**35, 2**63, 2**64 - 1])
def test_a_varint_is_its_value_and_ends_where_it_ends(value: int) -> None:
    data = varint(value)
    assert wire(b"\xff" + data + b"\xff").varint(1) == (value, 1 + len(data))


def test_bits_above_the_sixty_fourth_are_dropped() -> None:
    assert wire(b"\xff" * 9 + b"\x7f").varint(0) == (2**64 - 1, 10)
    assert wire(b"\x80" * 9 + b"\x02").varint(0) == (0, 10)


def test_a_varint_has_at_most_ten_bytes() -> None:
    assert wire(b"\x80" * 9 + b"\x00").varint(0) == (0, 10)
    with pytest.raises(DropRejected, match="a varint is longer than 10 bytes") as caught:
        wire(b"\x80" * 10 + b"\x00").varint(0)
    assert caught.value.reason == "bad-protobuf"


def test_a_varint_that_the_file_cuts_is_truncated() -> None:
    refused(tag(1, 0) + b"\x80", "it is cut off (the file ends inside a field)", "truncated")


def test_fields_of_every_kind_are_found_where_they_are() -> None:
    data = b"??"
    data += field(3, 300) + tag(4, 1) + bytes(8) + field(5, b"abc") + tag(200, 5) + bytes(4)
    assert fields(data + b"??", 2, len(data)) == [
        Field(3, 0, value=300),
        Field(4, 1, begin=6, end=14),
        Field(5, 2, begin=16, end=19),
        Field(200, 5, begin=21, end=25),
    ]
    assert wire(data).size == len(data)
    assert fields(data, 2, 2) == []


@pytest.mark.parametrize(
    "data", [tag(1, 1) + bytes(7), tag(1, 5) + bytes(3), tag(1, 2) + varint(3) + b"ab"]
)
def test_a_field_that_is_longer_than_its_message_is_cut_off(data: bytes) -> None:
    refused(data, CUT_OFF, "truncated")
    refused(data + b"more", CUT_OFF, "truncated", end=len(data))


def test_a_number_that_ends_behind_its_message_is_cut_off() -> None:
    data = field(1, 2**40)
    refused(data, CUT_OFF, "truncated", end=len(data) - 1)


@pytest.mark.parametrize("kind", [3, 4, 6, 7])
def test_an_unknown_wire_type_is_refused(kind: int) -> None:
    refused(tag(1, kind), f"a field has the unknown wire type {kind}", "bad-protobuf")


def test_the_fields_of_a_file_are_counted_over_all_its_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_FIELDS", 4)
    data = field(1, 1) * 2
    reader = wire(data)
    for _ in range(2):
        assert len(list(reader.fields(0, len(data)))) == 2
    with pytest.raises(DropRejected, match="it has more than 4 fields") as caught:
        list(reader.fields(0, len(data)))
    assert caught.value.reason == "absurd-counts"


@pytest.mark.parametrize("window", [1, 2, 7, 20, 100])
def test_texts_are_read_in_any_order(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    monkeypatch.setattr(module, "_WINDOW", window)
    texts = ["ab", "", "ü" * 7, "c"]
    data = b"".join(field(1, text) for text in texts)
    for order in itertools.permutations(range(4)):
        reader = wire(data)
        found = list(reader.fields(0, len(data)))
        assert [reader.text(found[index]) for index in order] == [texts[index] for index in order]


def test_bytes_that_are_no_text_are_replaced() -> None:
    data = field(1, b"a\xffb")
    assert wire(data).text(fields(data)[0]) == "a�b"


def test_a_string_has_a_limit() -> None:
    data = field(7, b"abcd")
    (found,) = fields(data)
    assert wire(data).bytes(found, limit=4) == b"abcd"
    with pytest.raises(DropRejected, match="a string has 4 bytes; the limit is 3") as caught:
        wire(data).text(found, limit=3)
    assert caught.value.reason == "absurd-counts"


@pytest.mark.parametrize("data", [field(7, 1), tag(7, 5) + bytes(4), tag(7, 1) + bytes(8)])
def test_what_has_no_length_is_no_string(data: bytes) -> None:
    with pytest.raises(DropRejected, match="field 7 is not a string"):
        wire(data).text(fields(data)[0])


def test_numbers_are_signed_and_may_be_packed() -> None:
    numbers = [0, 1, 127, 128, 2**63 - 1, -(2**63), -1]
    data = b"".join(field(1, number) for number in numbers)
    reader = wire(data)
    assert [reader.numbers(f, limit=1) for f in reader.fields(0, len(data))] == [
        [number] for number in numbers
    ]
    data = field(1, b"".join(varint(number % 2**64) for number in numbers))
    assert wire(data).numbers(fields(data)[0], limit=len(numbers)) == numbers


def test_a_list_of_numbers_has_a_limit() -> None:
    data = field(1, b"\x01\x02\x03")
    assert wire(data).numbers(fields(data)[0], limit=3) == [1, 2, 3]
    with pytest.raises(DropRejected, match="a tensor has more than 2 dimensions") as caught:
        wire(data).numbers(fields(data)[0], limit=2)
    assert caught.value.reason == "absurd-counts"


@pytest.mark.parametrize("data", [tag(7, 5) + bytes(4), tag(7, 1) + bytes(8)])
def test_a_fixed_number_is_no_list_of_numbers(data: bytes) -> None:
    with pytest.raises(DropRejected, match=re.escape("field 7 is not a list of numbers")):
        wire(data).numbers(fields(data)[0], limit=9)
