"""The few top-level fields of a JSON body that the gateway reads and sets (no I/O here).

A small body is parsed. Of a large one only the outermost level is looked at, in pieces that never
hold the interpreter for long, with no memory beside the body: what is inside of a value is the
engine's to judge.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise

from modelium.gateway.problems import HttpProblem

READ = frozenset({"model", "stream", "max_tokens", "max_completion_tokens", "max_output_tokens"})
"""The fields that the gateway reads."""

SMALL_BYTES = 64 * 1024
"""Larger bodies are scanned instead of parsed: parsing can take 30 times the body's memory, and
this size 4 ms."""

MOST_MARKS = 2_000_000
"""Limit for the quotes and brackets of a body: scanning so many takes a second of a thread."""

MOST_VALUE = 4096
"""Bytes of a field's value; what the gateway reads is shorter, or is no model's name."""

PIECE = 64 * 1024
"""Bytes that are searched at once."""

_NO_SPACE = re.compile(rb"[^ \t\r\n]")
_MARK = re.compile(rb'["\[\]{}]')
_PLAIN = re.compile(rb"[-+.0-9A-Za-z]{1,1024}+")
_QUOTE, _BACKSLASH, _OPEN, _CLOSE = b'"\\{}'

Span = tuple[int, int]


def read_fields(body: bytes) -> dict[str, object]:
    """Return those fields of the object in ``body`` that are in `READ`.

    Raises:
        HttpProblem: 400, it is not a JSON object; 413, it has too many values.
    """
    if len(body) <= SMALL_BYTES:
        return {key: value for key, value in parsed(body).items() if key in READ}
    body = _utf8(body)
    if sum(map(body.count, (b'"', b"[", b"]", b"{", b"}"))) > MOST_MARKS:
        raise HttpProblem(
            413,
            f"the request body has more than {MOST_MARKS:,} quotes and brackets; send it in parts",
            reason="too-large",
        )
    found: dict[str, object] = {}
    for key, (start, end) in _scan(body):
        if key in READ:
            found[key] = _value(body, start, end)
    return found


def parsed(body: bytes) -> dict[str, object]:
    """Return the JSON object in ``body``.

    Raises:
        HttpProblem: 400, it is not a JSON object.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise _invalid(str(exc)) from exc
    if not isinstance(content, dict):
        raise _no_object()
    return content


def with_field(body: bytes, key: str, value: object, *, present: bool) -> bytes:
    """Return ``body`` with ``value`` as its field ``key``; all other bytes stay as they are.

    Serializing the whole body would be slow for images and would lose numbers that Python cannot
    represent.

    Args:
        body: a JSON object.
        key: the field, one of plain letters.
        value: what becomes of it.
        present: whether ``body`` has the field already.
    """
    body = _utf8(body)
    new = json.dumps(value).encode()
    if not present:
        after = body.index(b"{") + 1
        empty = body[_skip(body, after)] == _CLOSE
        return (
            b'%s"%s":%s%s' % (body[:after], key.encode(), new, b"" if empty else b",")
            + (body[after:])
        )
    spans = _lone(body, key.encode()) or [span for name, span in _scan(body) if name == key]
    bounds = [0, *(edge for span in spans for edge in span), len(body)]
    kept = [body[start:end] for start, end in list(pairwise(bounds))[::2]]
    return new.join(kept)


def _lone(body: bytes, key: bytes) -> list[Span]:
    """Return where the value of ``key`` is, if that is plain to see: most bodies name it once."""
    quoted = b'"%s"' % key
    if body.count(quoted) != 1 or b"\\u" in body:
        return []
    colon = _skip(body, body.index(quoted) + len(quoted))
    start = _skip(body, colon + 1)
    return [(start, _after_value(body, start))]


def _scan(body: bytes) -> list[tuple[str, Span]]:
    """Return the fields of the outermost object and where their values are.

    Raises:
        HttpProblem: 400, it is not a JSON object.
    """
    at = _skip(body, 0)
    if body[at : at + 1] != b"{":
        raise _no_object()
    found: list[tuple[str, Span]] = []
    at = _skip(body, at + 1)
    while body[at : at + 1] != b"}":
        if body[at : at + 1] != b'"':
            raise _invalid(f"a field's name is expected at byte {at}")
        start, at = at, _after_string(body, at)
        key = _value(body, start, at)
        at = _skip(body, at)
        if body[at : at + 1] != b":":
            raise _invalid(f"`:` is expected at byte {at}")
        start = _skip(body, at + 1)
        at = _after_value(body, start)
        found.append((str(key), (start, at)))
        at = _skip(body, at)
        if body[at : at + 1] == b",":
            at = _skip(body, at + 1)
            if body[at : at + 1] != b'"':
                raise _invalid(f"a field's name is expected at byte {at}")
        elif body[at : at + 1] != b"}":
            raise _invalid(f"`,` or the object's end is expected at byte {at}")
    if _skip(body, at + 1) != len(body):
        raise _invalid(f"the object ends at byte {at}, and more follows")
    return found


def _after_value(body: bytes, at: int) -> int:
    """Return the end of the value that begins ``at``."""
    if at >= len(body):
        raise _invalid("it is not complete")
    first = body[at]
    if first == _QUOTE:
        return _after_string(body, at)
    if first not in b"[{":
        plain = _PLAIN.match(body, at)
        if plain is None:
            raise _invalid(f"a value is expected at byte {at}")
        return plain.end()
    depth = 0
    while at < len(body):
        mark = _MARK.search(body, at, at + PIECE)
        if mark is None:
            at += PIECE
            continue
        at = mark.start()
        if body[at] == _QUOTE:
            at = _after_string(body, at)
            continue
        depth += 1 if body[at] in b"[{" else -1
        at += 1
        if depth == 0:
            return at
    raise _invalid("it is not complete")


def _after_string(body: bytes, at: int) -> int:
    """Return the end of the string whose first quote is ``at``."""
    at += 1
    while (end := body.find(b'"', at)) >= 0:
        if body[end - 1] != _BACKSLASH:
            return end + 1
        run = body[at:end]
        if (len(run) - len(run.rstrip(b"\\"))) % 2 == 0:
            return end + 1
        at = end + 1
    raise _invalid("a text in it does not end")


def _skip(body: bytes, at: int) -> int:
    """Return the first place from ``at`` on that is no white space."""
    found = _NO_SPACE.search(body, at)
    return found.start() if found is not None else len(body)


def _value(body: bytes, start: int, end: int) -> object:
    """Return the value in a span; of one beyond `MOST_VALUE`, its beginning as text."""
    if end - start > MOST_VALUE:
        return body[start + 1 : start + MOST_VALUE].decode("utf-8", "replace")
    try:
        found: object = json.loads(body[start:end])
    except (ValueError, RecursionError) as exc:
        raise _invalid(str(exc)) from exc
    return found


def _utf8(body: bytes) -> bytes:
    """Return a JSON text in UTF-8, without a mark of byte order."""
    encoding = json.detect_encoding(body)
    if encoding == "utf-8":
        return body
    try:
        return body.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
    except UnicodeDecodeError as exc:
        raise _invalid(str(exc)) from exc


def _invalid(why: str) -> HttpProblem:
    return HttpProblem(400, f"the request body is not valid JSON: {why}", reason="bad-json")


def _no_object() -> HttpProblem:
    return HttpProblem(400, "the request body must be a JSON object", reason="bad-json")
