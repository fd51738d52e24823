"""Errors as HTTP answers: one table of statuses, one body per API (no I/O here)."""

from __future__ import annotations

import math
import re
from typing import Any

from modelium.errors import (
    DeadlineExceeded,
    InputError,
    ModeliumError,
    NeedsApproval,
    TransientError,
    Unavailable,
    UnknownModel,
    Unsupported,
)
from modelium.gateway.asgi import Headers
from modelium.policy import PlanRejected

RETRY_AFTER_S = 5.0
"""Retry-After of a transient error that has none of its own."""

STATUSES: tuple[tuple[type[ModeliumError], int], ...] = (
    (UnknownModel, 404),
    (NeedsApproval, 403),
    (PlanRejected, 409),
    (InputError, 400),
    (DeadlineExceeded, 504),
    (TransientError, 503),
    (Unsupported, 422),
    (ModeliumError, 500),
)
"""The first row that matches an error's type applies."""

KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""OpenAI's ``type`` of an error, for statuses that have one of their own."""


class HttpProblem(ModeliumError):
    """An error that determines its HTTP status."""

    def __init__(
        self, status: int, message: str, *, reason: str, retry_after_s: float | None = None
    ) -> None:
        """``reason``: a slug for machines, part of the JSON body."""
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s


LOG = re.compile(r"\s?\(log: (?:(?!\(log: ).)*?\.log\)")
"""Where the whole log of an engine is, as drivers add it."""

_BEFORE = r"(?:(?<![\w./)\]}])|(?<=\s-[BIL]))"
"""No word, and so no URL and no fraction; an option of a compiler."""
_NAMED = r"(?:(?:file|ipc|unix|sqlite(?:\+\w+)?):/{0,3}?(?:localhost)?|~\w*|\.\.?|[A-Za-z]:)"
"""What makes a path of the next slash, however short the rest is."""
_CHARS = r"[^\s/\"'`(){}\[\]<>,;:|]"
_WINDOWS = r"(?:[A-Za-z]:|\\)\\"

QUOTED = re.compile(
    rf"([\"'`])(?:{_NAMED}/|{_WINDOWS}|/(?!v\d+\b)(?:(?!\1)[^/\n])+/)(?:(?!\1)[^\n])*\1"
)
"""A path of this machine in quotes, which may have spaces."""
PATH = re.compile(
    rf"{_BEFORE}(?:{_NAMED}/{_CHARS}+|/(?!v\d+\b){_CHARS}+(?=/)|{_WINDOWS}{_CHARS}+)"
    rf"(?:/{_CHARS}*)*(?:[ ](?!-){_CHARS}+(?:/{_CHARS}*)+)*"
)
"""A path of this machine with two parts or more, or a relative one, with a word after each space in
it; the routes of inference APIs are none."""


def for_clients(message: str) -> str:
    """Return ``message`` without paths of this machine, which are the operator's to see."""
    return PATH.sub("…", QUOTED.sub(r"\1…\1", LOG.sub("", message)))


def status_of(error: ModeliumError) -> int:
    """Return the HTTP status of ``error``."""
    if isinstance(error, HttpProblem):
        return error.status
    return next(status for kind, status in STATUSES if isinstance(error, kind))


def headers_of(error: ModeliumError) -> Headers:
    """Return the headers of ``error``: Retry-After (whole seconds) if retrying can help."""
    seconds = error.retry_after_s if isinstance(error, HttpProblem | Unavailable) else None
    if seconds is None and not isinstance(error, TransientError):
        return []
    return [(b"retry-after", str(max(1, math.ceil(seconds or RETRY_AFTER_S))).encode())]


def body_of(path: str, status: int, message: str, reason: str) -> dict[str, Any]:
    """Return the error's JSON body in the format of the API that ``path`` belongs to.

    ``/api`` and ``/hooks``: ``{"error": {"reason", "message"}}``; KServe: ``{"error": text}``;
    everything else: OpenAI's.
    """
    if path.startswith(("/api/", "/hooks/")):
        return {"error": {"reason": reason, "message": message}}
    if path == "/v2" or path.startswith(("/v2/models", "/v2/health")):
        return {"error": message}
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": reason}}
