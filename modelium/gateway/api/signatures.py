"""Signatures of the webhook's requests: made recently, and used once (no I/O here)."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable

from modelium.gateway.problems import HttpProblem

SIGNATURE = "X-Modelium-Signature"
TIMESTAMP = "X-Modelium-Timestamp"

MOST_SEEN = 4096
"""Signatures in memory: about 600 KB. Only holders of the secret can add one."""

_SECONDS = re.compile(r"[0-9]{1,12}")


class Signatures:
    """Checks that a request is signed, that its time is near, and that it was not seen before.

    What was seen is forgotten when its time is past, and when the process ends.
    """

    def __init__(self, *, secret: str, window_s: float, now: Callable[[], float]) -> None:
        """``window_s``: how far a request's time may be from ``now``, in seconds since the epoch.

        What is signed is the time as it is written in the header, a dot, and the body.
        """
        self._secret = secret.encode()
        self._window_s = window_s
        self._now = now
        self._seen: dict[bytes, float] = {}

    def check(self, body: bytes, *, signature: str | None, timestamp: str | None) -> None:
        """Take note of a request.

        Raises:
            HttpProblem: 401, it is not signed, or its time is not near; 409, it was seen before;
                429, more requests than memory is kept for, within twice the window.
        """
        if timestamp is None or not _SECONDS.fullmatch(timestamp):
            raise HttpProblem(
                401, f"{TIMESTAMP} must have the time in whole seconds since 1970", reason="no-time"
            )
        expected = hmac.new(self._secret, timestamp.encode() + b"." + body, hashlib.sha256)
        given = (signature or "").strip().lower().encode()
        if not hmac.compare_digest(b"sha256=" + expected.hexdigest().encode(), given):
            raise HttpProblem(
                401,
                f"{SIGNATURE} must be sha256= followed by the hexadecimal HMAC-SHA256, under "
                f"ingest.webhook_secret, of {TIMESTAMP}, a dot and the body",
                reason="bad-signature",
            )
        # Only now: without the secret, nobody learns the service's time or fills its memory.
        now, at = self._now(), int(timestamp)
        if abs(now - at) > self._window_s:
            raise HttpProblem(
                401,
                f"{TIMESTAMP} is {abs(now - at):.0f} s {'old' if at < now else 'ahead'}, more than "
                f"the {self._window_s:g} s of ingest.webhook_window_seconds; sign each request "
                "anew, and compare the clocks of both machines",
                reason="wrong-time",
            )
        self._remember(expected.digest(), until=at + self._window_s, now=now)

    def _remember(self, signature: bytes, *, until: float, now: float) -> None:
        if self._seen.get(signature, now - 1) >= now:
            raise HttpProblem(
                409, "this request was received before; sign each request anew", reason="replayed"
            )
        if len(self._seen) >= MOST_SEEN:
            self._seen = {seen: end for seen, end in self._seen.items() if end >= now}
        if len(self._seen) >= MOST_SEEN:
            raise HttpProblem(
                429,
                f"more than {MOST_SEEN} requests within ingest.webhook_window_seconds",
                reason="too-many-requests",
                retry_after_s=min(self._seen.values()) - now,
            )
        self._seen[signature] = until
