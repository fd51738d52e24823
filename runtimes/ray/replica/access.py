"""The key of a replica: Serve's proxy itself asks for none."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path


def replica_key(token_path: Path, model: str) -> str:
    """Return the bearer token for ``model``, derived from the cluster's own.

    Raises:
        OSError: the file cannot be read.
    """
    return hmac.new(token_path.read_bytes(), model.encode(), hashlib.sha256).hexdigest()


def authorized(header: str | None, key: str) -> bool:
    """Whether an Authorization header has ``key``."""
    return hmac.compare_digest((header or "").encode(), f"Bearer {key}".encode())
