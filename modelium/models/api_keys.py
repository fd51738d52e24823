"""API keys: identity, permissions and limits of a client (no I/O here).

A key is ``mdl_`` followed by 43 random characters. Only its SHA-256 is stored: 256 random bits
cannot be guessed, so a slow password hash would add latency and no security.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from modelium.models import Frozen, Priority

PREFIX = "mdl_"
"""Lets people and secret scanners recognize a key."""

Scope = Literal["infer", "ingest", "admin"]
"""The endpoints that a key may call: inference; the webhook; the admin API and all others."""


def _printable(text: str) -> str:
    # It is shown in terminals and logs, where control characters would act.
    if not text.isprintable():
        raise ValueError("control characters and line breaks are not allowed")
    return text


Label = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_printable)]
"""Text that is shown to people."""


class KeyTerms(Frozen):
    """The permissions and limits of a key, as the operator sets them."""

    name: Label
    """Need not be unique."""
    team: Label | None = None
    priority: Priority | None = None
    """Class of its waiting requests; ``None``: high for the policy's high_priority_teams."""
    models: frozenset[Label] = frozenset()
    """The models that it may use; empty: all."""
    requests_per_minute: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Long-term rate limit; a burst may be as large as one minute's allowance."""
    max_concurrent: Annotated[int, Field(ge=1)] | None = None
    """Limit for requests in flight, including those that wait for a model."""
    scopes: frozenset[Scope] = frozenset({"infer"})
    expires_at: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Seconds since the epoch from which it is refused; ``None``: it is valid until revoked."""


class ApiKey(KeyTerms):
    """A stored key, without its secret."""

    # Any text: what an earlier version has stored must not keep all keys from being read.
    name: str
    team: str | None = None
    models: frozenset[str] = frozenset()
    id: str
    created_at: float
    revoked_at: float | None = None


class IssuedKey(Frozen):
    """A new key with its secret, which is never stored or shown again."""

    key: ApiKey
    secret: str


def new_secret() -> str:
    """Return a new random key."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(secret: bytes) -> str:
    """Return the hash that is stored in place of a key."""
    return hashlib.sha256(secret).hexdigest()
