"""Finds the text fields of a multipart form without copying its files (no I/O here)."""

from __future__ import annotations

import re

from modelium.gateway.problems import HttpProblem

MAX_PARTS = 64
"""OpenAI's audio requests have a dozen."""
MAX_BOUNDARY = 80
"""Bytes of a boundary with its dashes; RFC 2046 allows 70."""
MAX_HEAD = 4096
"""Bytes of the headers of one part."""
MAX_VALUE = 4096
"""Longer values are texts for the engine, and none of the fields that the gateway reads."""

_DISPOSITION = re.compile(rb"^content-disposition:([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_PARAMETER = re.compile(rb';\s*([\w*-]+)=("(?:[^"\\]|\\.)*"|[^;\s]*)')

Spans = dict[str, tuple[int, int]]
"""Field → begin and end of its value in the body."""


def spans(body: bytes) -> Spans:
    """Return where the values of the form in ``body`` are; of equal names, the first.

    The boundary is read from the first line: clients write no preamble.

    Raises:
        HttpProblem: 400, it is not a multipart form, or names two models: the engine would take
            the other one.
    """
    line = body.find(b"\r\n", 0, MAX_BOUNDARY)
    if line < 3 or not body.startswith(b"--"):
        raise _bad("it does not begin with a boundary")
    delimiter = b"\r\n" + body[:line]
    found: Spans = {}
    at = line + 2
    for _ in range(MAX_PARTS):
        head = body.find(b"\r\n\r\n", at, at + MAX_HEAD)
        end = body.find(delimiter, head + 4) if head >= 0 else -1
        if end < 0:
            raise _bad("a part of it is not complete")
        if disposition := _DISPOSITION.search(body[at:head]):
            parameters = {key.lower(): value for key, value in _PARAMETER.findall(disposition[1])}
            name = parameters.get(b"name", b"").strip(b'"').decode("utf-8", "replace")
            if name == "model" and name in found:
                raise _bad("it has two fields `model`")
            found.setdefault(name, (head + 4, end))
        at = end + len(delimiter)
        if body.startswith(b"--", at):
            return found
        at += 2
    raise _bad(f"it has more than {MAX_PARTS} parts")


def form_fields(body: bytes) -> dict[str, object]:
    """Return the short text fields of the form in ``body``; ``stream`` as a truth value."""
    fields: dict[str, object] = {
        name: body[start:end].decode("utf-8", "replace")
        for name, (start, end) in spans(body).items()
        if end - start <= MAX_VALUE
    }
    return {**fields, "stream": str(fields.get("stream")).lower() in ("true", "1")}


def renamed_form(body: bytes, name: str) -> bytes:
    """Return ``body`` with another ``model``; a form without that field is unchanged."""
    span = spans(body).get("model")
    if span is None:
        return body
    return body[: span[0]] + name.encode() + body[span[1] :]


def _bad(why: str) -> HttpProblem:
    message = f"the request body is not a multipart form: {why}"
    return HttpProblem(400, message, reason="bad-form")
