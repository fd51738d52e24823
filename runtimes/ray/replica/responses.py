"""Responses of a replica in the shape of each API (no I/O here)."""

from __future__ import annotations

import json
from typing import Any

Response = tuple[int, bytes, dict[str, str]]
"""Status, body, headers."""


def json_response(document: dict[str, Any], status: int = 200) -> Response:
    """Return a JSON response."""
    return status, json.dumps(document).encode(), {"content-type": "application/json"}


def error_response(status: int, message: str, *, openai: bool = False) -> Response:
    """Return an error in the shape of KServe or of OpenAI."""
    if not openai:
        return json_response({"error": message}, status)
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": None}
    return json_response({"error": error}, status)
