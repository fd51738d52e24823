"""API keys: who a client is, and how much of what it may ask for (no I/O here).

A key is ``mdl_`` and 43 characters of chance. Only its SHA-256 is kept: with 256 bits of chance
there is nothing to guess, so a slow hash would only slow down requests.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Annotated, Literal

from pydantic import Field

from modelium.models import Frozen, Priority

PREFIX = "mdl_"
"""Tells keys from other tokens, for people and for scanners of leaked secrets."""

Scope = Literal["infer", "ingest", "admin"]
"""What a key opens: inference; the webhook; the admin API with everything else."""


class KeyTerms(Frozen):
    """What a key is good for, as the operator says it."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    """For people."""
    team: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    priority: Priority | None = None
    """Class of its waiting requests; ``None``: high for the policy's important teams."""
    models: frozenset[str] = frozenset()
    """The only models that it may use; empty: all."""
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    """Over any longer time; a minute's worth may come at once."""
    max_concurrent: Annotated[int, Field(ge=1)] | None = None
    """Requests in hand at a time, waiting ones included."""
    scopes: frozenset[Scope] = frozenset({"infer"})


class ApiKey(KeyTerms):
    """A key as it is kept, without its secret."""

    id: str
    created_at: float
    revoked_at: float | None = None


class IssuedKey(Frozen):
    """A new key with its secret, which is shown once."""

    key: ApiKey
    secret: str


def new_secret() -> str:
    """Return a fresh key."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(secret: bytes) -> str:
    """Return what is kept of a key."""
    return hashlib.sha256(secret).hexdigest()
