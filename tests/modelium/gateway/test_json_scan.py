"""The edges of reading a JSON body: sizes, places of mistakes, and what is not looked at."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelium.gateway import json_fields
from modelium.gateway.json_fields import SMALL_BYTES, read_fields, with_field
from modelium.gateway.problems import HttpProblem

NOT_JSON = "the request body is not valid JSON: "


def refusal(body: bytes, read: Any = read_fields) -> tuple[int, str, str]:
    """Status, reason and message of the problem with ``body``."""
    with pytest.raises(HttpProblem) as problem:
        read(body)
    return problem.value.status, problem.value.reason, str(problem.value)


def sized(body: bytes, size: int) -> bytes:
    return body + b" " * (size - len(body))


def test_a_small_body_is_parsed_and_of_a_larger_one_the_outermost_level_is_looked_at() -> None:
    body = b'{"model": "m", "n": [1, oops], "stream": true, "other": 1}'
    assert refusal(sized(body, SMALL_BYTES))[:2] == (400, "bad-json")
    assert read_fields(sized(body, SMALL_BYTES + 1)) == {"model": "m", "stream": True}
    assert read_fields(body.replace(b"oops", b"2")) == {"model": "m", "stream": True}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the request body must be a JSON object"),
        (b" [1]", "the request body must be a JSON object"),
        (b"{", NOT_JSON + "a field's name is expected at byte 1"),
        (b"{ 1:2}", NOT_JSON + "a field's name is expected at byte 2"),
        (b'{"a', NOT_JSON + "a text in it does not end"),
        (b'{"a\\"', NOT_JSON + "a text in it does not end"),
        (b'{"a\\"}', NOT_JSON + "a text in it does not end"),
        (b'{"a" 1}', NOT_JSON + "`:` is expected at byte 5"),
        (b'{"a":', NOT_JSON + "it is not complete"),
        (b'{"a": }', NOT_JSON + "a value is expected at byte 6"),
        (b'{"a":[1, "]"', NOT_JSON + "it is not complete"),
        (b'{"a":{"b":[]}', NOT_JSON + "`,` or the object's end is expected at byte 13"),
        (b'{"a":1 "b":2}', NOT_JSON + "`,` or the object's end is expected at byte 7"),
        (b'{"a":1,}', NOT_JSON + "a field's name is expected at byte 7"),
        (b'{"a":1, b:2}', NOT_JSON + "a field's name is expected at byte 8"),
        (b'{"a":1} x', NOT_JSON + "the object ends at byte 6, and more follows"),
        (b'{"a\x01":1}', NOT_JSON + "Invalid control character at: line 1 column 3 (char 2)"),
    ],
)
def test_a_mistake_is_told_with_its_place(body: bytes, said: str) -> None:
    assert refusal(body, json_fields._scan) == (400, "bad-json", said)


def test_fields_are_found_at_their_bytes_whatever_white_space_is_between() -> None:
    body = b' \t{ "a" :\r\n[1, {"b": "}]\\\\"}] ,\n"a\\"b": -1.5e3 , "c":"x\\\\" , "d":null } \n'
    assert [(name, body[a:b]) for name, (a, b) in json_fields._scan(body)] == [
        ("a", b'[1, {"b": "}]\\\\"}]'),
        ('a"b', b"-1.5e3"),
        ("c", b'"x\\\\"'),
        ("d", b"null"),
    ]
    assert json_fields._scan(b"{ } ") == []


@pytest.mark.parametrize("mark", [b"[", b"]", b"{", b"}", b'\\"'])
def test_quotes_and_brackets_are_counted_together(
    monkeypatch: pytest.MonkeyPatch, mark: bytes
) -> None:
    monkeypatch.setattr(json_fields, "MOST_MARKS", 10)

    def body(times: int) -> bytes:
        return sized(b'{"a":"%s"}' % (mark * times), SMALL_BYTES + 1)  # six of its own

    assert read_fields(body(4)) == {}
    said = "the request body has more than 10 quotes and brackets; send it in parts"
    assert refusal(body(5)) == (413, "too-large", said)


@pytest.mark.parametrize("piece", [1, 2, 3, 64])
def test_a_value_longer_than_a_piece_is_read_across_them(
    monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(json_fields, "PIECE", piece)
    body = b'{"a":[12345, "]", {"b": [123456789]}], "c": {"d": {}, "e": "}"}, "f": [[]]}'
    found = {name: json.loads(body[start:end]) for name, (start, end) in json_fields._scan(body)}
    assert found == json.loads(body)


def test_a_value_beyond_the_bound_is_cut_and_one_at_it_is_whole() -> None:
    most = json_fields.MOST_VALUE
    for length, kept in ((most - 2, most - 2), (most - 1, most - 1), (most, most - 1)):
        body = sized(b'{"model":"%s"}' % (b"x" * length), SMALL_BYTES + 1)
        assert read_fields(body) == {"model": "x" * kept}
    # What is cut off need not be right.
    wrong = sized(b'{"model":"%s\\q"}' % (b"x" * most), SMALL_BYTES + 1)
    assert read_fields(wrong) == {"model": "x" * (most - 1)}
    assert refusal(sized(b'{"model":"\\q"}', SMALL_BYTES + 1))[:2] == (400, "bad-json")


@pytest.mark.parametrize(
    ("body", "present", "expected"),
    [
        (b"{}", False, b'{"k":7}'),
        (b" {  } ", False, b' {"k":7  } '),
        (b'{ "a":1}', False, b'{"k":7, "a":1}'),
        (b'{"k":1}', True, b'{"k":7}'),
        (b'{ "k" : [1] , "b":2}', True, b'{ "k" : 7 , "b":2}'),
        (b'{"a":"k","k":1}', True, b'{"a":"k","k":7}'),
        (b'{"a":"k","k":1,"\\u006b":2,"n":{"k":3}}', True, b'{"a":"k","k":7,"\\u006b":7,"n":{"k":3}}'),
        (b'{"k":1,"\\u006b":2}', True, b'{"k":7,"\\u006b":7}'),
        (b'{"k":1,"u":"\\u006b"}', True, b'{"k":7,"u":"\\u006b"}'),
        (b'{"\\u006b":"x"}', True, b'{"\\u006b":7}'),
    ],
)  # fmt: skip
def test_one_field_is_set_and_all_else_stays(body: bytes, present: bool, expected: bytes) -> None:
    assert with_field(body, "k", 7, present=present) == expected


@pytest.mark.parametrize("size", [0, SMALL_BYTES + 10])
def test_a_body_that_is_no_text_in_its_encoding_is_a_400(size: int) -> None:
    assert refusal(b"\xff\xfe{" + b"\xd8\x00" * size)[:2] == (400, "bad-json")


def test_half_a_surrogate_pair_is_passed_on() -> None:
    body = sized('{"model": "a\ud800"}'.encode("utf-8", "surrogatepass"), SMALL_BYTES + 1)
    assert with_field(body, "stream", True, present=False).startswith(b'{"stream":true,"model"')
    wide = '{"a": "\ud800", "model": "m"}'.encode("utf-16-le", "surrogatepass")
    assert with_field(wide, "model", "n", present=True) == b'{"a": "\xed\xa0\x80", "model": "n"}'


@pytest.mark.parametrize("count", range(7))
def test_a_quote_is_the_end_after_an_even_number_of_backslashes(count: int) -> None:
    for tail, names in ((b"}", ["a"]), (b',"b":"y"}', ["a", "b"])):
        body = b'{"a":"x%s"%s' % (b"\\" * count, tail)
        if count % 2:
            assert refusal(body, json_fields._scan)[0] == 400
        else:
            assert [name for name, _ in json_fields._scan(body)] == names
