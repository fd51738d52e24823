"""Authentication and authorization: the operator's token, API keys, no cross-site requests."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
from functools import lru_cache
from urllib.parse import urlsplit

from modelium.config.hosts import is_loopback
from modelium.gateway.access.keyring import KEY_HOLDER, Keyring, looks_like_key
from modelium.gateway.asgi import App, Headers, Receive, Scope, Send, respond_json
from modelium.gateway.problems import body_of
from modelium.models.api_keys import Scope as KeyScope
from modelium.models.openai_paths import OPENAI_PATHS

OPEN_PATHS = frozenset({"/healthz", "/v2/health/live"})
"""Need no token: they reveal only that the process is alive."""

INFERENCE = ("/v1/", "/v2", "/models/")
"""Path prefixes of inference; `OPENAI_PATHS` are the others."""

NOT_AUTHORIZED = "send the gateway's token or an API key: Authorization: Bearer TOKEN"
CHALLENGE: Headers = [
    (b"www-authenticate", b'Bearer realm="modelium"'),
    (b"www-authenticate", b'Basic realm="modelium"'),
]

PAGE = "/"
"""The status page: read-only, and other sites may link to it."""


class AuthMiddleware:
    """Passes authorized requests to ``app``; answers all others with 401 or 403.

    With a token configured, every request must carry the token or an API key: as a bearer token
    or, so that a browser can open the status page, as the password of HTTP Basic on GET. The
    token grants everything, a key what its scopes say; the key's `KeyHolder` is stored in the
    request's ASGI scope. Without a token (loopback only) the Host header must name loopback,
    which defeats DNS rebinding; a key that is sent is checked nevertheless. In both cases a
    browser's cross-site request is refused, except for the status page.
    """

    def __init__(self, *, app: App, token: str | None, keys: Keyring, host: str) -> None:
        """``host``: the address on which the gateway listens."""
        self._app = app
        self._token = token.encode() if token else None
        self._keys = keys
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        path: str = scope["path"]
        if path not in OPEN_PATHS and (refusal := self._refusal(scope, path)) is not None:
            status, message = refusal
            reason, headers = ("unauthorized", CHALLENGE) if status == 401 else ("forbidden", [])
            return await respond_json(send, status, body_of(path, status, message, reason), headers)
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, path: str) -> tuple[int, str] | None:
        """Return status and message of a refusal; store the `KeyHolder` of an accepted key."""
        authorization = origin = site = None
        host = b""
        for name, value in scope["headers"]:
            if name == b"authorization":
                authorization = value
            elif name == b"origin":
                origin = value
            elif name == b"sec-fetch-site":
                site = value
            elif name == b"host":
                host = value
        if self._token is None and not _is_local(host, self._host):
            return 403, "without gateway.token, Host must name loopback; set gateway.token"
        if path != PAGE and _is_cross_site(origin, site, host):
            return 403, "cross-site browser requests are refused"
        presented = _presented(authorization, scope["method"])
        if self._token is not None and hmac.compare_digest(presented, self._token):
            return None
        if not looks_like_key(presented):
            return (401, NOT_AUTHORIZED) if self._token is not None else None
        holder = self._keys.find(presented)
        if holder is None:
            return 401, NOT_AUTHORIZED
        if not holder.has(needed := needed_scope(path)):
            return 403, f"this key does not have the scope {needed!r}"
        scope[KEY_HOLDER] = holder
        return None


def needed_scope(path: str) -> KeyScope:
    """Return the scope that a key needs for a request to ``path``."""
    if path.startswith(INFERENCE) or path in OPENAI_PATHS:
        return "infer"
    return "ingest" if path.startswith("/hooks/") else "admin"


def _presented(authorization: bytes | None, method: str) -> bytes:
    """Return the token or key that a request carries, or ``b""``."""
    if authorization is None:
        return b""
    scheme, _, given = authorization.partition(b" ")
    given = given.strip()
    if scheme.lower() == b"bearer":
        return given
    if scheme.lower() == b"basic" and method in ("GET", "HEAD"):
        with contextlib.suppress(binascii.Error):
            return base64.b64decode(given, validate=True).partition(b":")[2]
    return b""


@lru_cache(maxsize=64)
def _is_local(header: bytes, listening: str) -> bool:
    """Whether a Host header names loopback, or the host on which the gateway listens."""
    name = _host_name(header)
    return name == listening or is_loopback(name)


def _host_name(host: bytes) -> str:
    try:
        return urlsplit(f"//{host.decode('latin-1')}").hostname or ""
    except ValueError:
        return ""


def _is_cross_site(origin: bytes | None, site: bytes | None, host: bytes) -> bool:
    if site is not None and site.lower() in (b"cross-site", b"same-site"):
        return True
    if origin is None:
        return False
    # `null` (sandboxed frames, file pages) has no host and counts as cross-site.
    return origin.partition(b"://")[2].lower() != host.lower()
