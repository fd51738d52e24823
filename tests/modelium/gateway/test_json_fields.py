"""The fields of a JSON body: the same by parsing and by scanning, with little memory and time."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelium.gateway import json_fields
from modelium.gateway.json_fields import READ, SMALL_BYTES, read_fields, with_field
from modelium.gateway.problems import HttpProblem

pytestmark = pytest.mark.slow

LARGE = 8 * 1024 * 1024
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["model"]), inner),
    max_leaves=12,
)
BODIES = st.dictionaries(st.text() | st.sampled_from(sorted(READ)), VALUES, max_size=6)


@settings(max_examples=40)
@given(BODIES, st.booleans(), st.sampled_from([None, 2]), st.sampled_from(["model", "max_tokens"]))
def test_scanning_finds_and_sets_what_parsing_does(
    content: dict[str, Any], ascii: bool, indent: int | None, key: str
) -> None:
    body = json.dumps(content, ensure_ascii=ascii, indent=indent).encode("utf-8", "surrogatepass")
    scanned = {name: body[a:b] for name, (a, b) in json_fields._scan(body)}
    assert {name: json.loads(text) for name, text in scanned.items()} == json.loads(body)
    new = with_field(body, key, 'x"y', present=key in content)
    assert json.loads(new) == {**json.loads(body), key: 'x"y'}


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b'{"a"', b'{"a":', b'{"a":1', b'{"a":1,', b'{"a":1,}', b'{"a" 1}', b"{1:2}"),
        *(b'{"a":1 "b":2}', b'{"a":[}', b'{"a":"x}', b'{"a":"\\"}', b'{"a":1}x', b"[1]", b'{"a":}'),
    ],
)
def test_what_is_no_object_is_a_400_by_scanning_too(body: bytes) -> None:
    for text in (body, body + b" " * SMALL_BYTES, b" " * SMALL_BYTES + body):
        with pytest.raises(HttpProblem) as refused:
            read_fields(text)
        assert refused.value.status == 400


def padded(value: bytes) -> bytes:
    """A large body with two `model` fields, one of them inside of ``x``."""
    return b'{"x": %s, "n": {"model": "other"}, "model": "m"}' % value


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b'"' + b"a" * LARGE + b'"', id="text"),
        pytest.param(b'"' + b"\\n" * (LARGE // 2) + b'"', id="escapes"),
        pytest.param(b'"' + b'\\"' * 20_000 + b'"', id="quotes"),
        pytest.param(b"[" + b"1," * (LARGE // 2) + b"1]", id="numbers"),
        pytest.param(b"[" + b"[]," * 30_000 + b"1]", id="lists"),
        pytest.param(b"[" * 50_000 + b"]" * 50_000, id="depth"),
        pytest.param('"😀"'.encode() + b" " * LARGE, id="wide"),
    ],
)
def test_a_large_body_takes_no_more_than_twice_its_size(value: bytes) -> None:
    body = padded(value)
    tracemalloc.start()
    try:
        assert read_fields(body)["model"] == "m"
        renamed = with_field(body, "model", "engines", present=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert renamed == body[:-4] + b'"engines"}'
    assert peak < 2.1 * len(body) + 200_000


@pytest.mark.parametrize("unit", [b'\\"', b"\\\\", b"[],", b'"",', b"1,"])
def test_time_grows_no_faster_than_the_body(unit: bytes) -> None:
    def cost(times: int) -> float:
        text = unit * times
        value = b"[" + text + b"1]" if b"," in unit else b'"' + text + b'"'
        body = padded(value)
        began = time.thread_time()
        read_fields(body)
        with_field(body, "model", "engines", present=True)
        return time.thread_time() - began

    small = min(cost(10_000) for _ in range(3))
    assert min(cost(100_000) for _ in range(2)) < 40 * small + 0.05


def test_a_body_of_too_many_values_is_refused_at_once() -> None:
    body = padded(b"[" + b"[]," * 1_100_000 + b"1]")
    tracemalloc.start()
    try:
        with pytest.raises(HttpProblem, match="in parts") as refused:
            read_fields(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.value.status == 413 and peak < 100_000


def test_the_last_of_equal_names_counts_and_all_are_set() -> None:
    tail = b" " * SMALL_BYTES
    body = b'{"model":"a","mod\\u0065l":"b"}' + tail
    assert read_fields(body) == {"model": "b"}
    assert with_field(body, "model", "c", present=True) == (
        b'{"model":"c","mod\\u0065l":"c"}' + tail
    )


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32-le", "utf-8-sig"])
def test_other_encodings_are_read_too(encoding: str) -> None:
    body = ('{"model": "é"}' + " " * SMALL_BYTES).encode(encoding)
    assert read_fields(body) == {"model": "é"}
    assert json.loads(with_field(body, "model", "m", present=True)) == {"model": "m"}


def test_a_name_that_is_no_models_is_cut() -> None:
    body = b'{"model":"%s"}' % (b"x" * LARGE)
    assert read_fields(body)["model"] == "x" * (json_fields.MOST_VALUE - 1)
