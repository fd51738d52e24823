"""Middleware of vLLM's server: every route but /health wants the engine's key.

vLLM itself guards some paths only: /tokenize, /invocations, /metrics and, with sleep mode,
/collective_rpc answer anybody. This module runs in vLLM's environment, with the standard library.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable
from typing import Any

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

OPEN = frozenset({"/health"})
KEY = "VLLM_API_KEY"
BODY = b'{"error":{"message":"a key is needed","type":"authentication_error","code":401}}'


class RequireKey:
    """ASGI middleware."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        """``app``: the server.

        Raises:
            KeyError: there is no key in the environment.
        """
        self._app = app
        self._expected = f"Bearer {os.environ[KEY]}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass requests with the key on; refuse others."""
        if scope["type"] == "lifespan" or scope["path"] in OPEN or self._authorized(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": BODY})

    def _authorized(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self._expected)
