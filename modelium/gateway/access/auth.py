"""Who may speak to the gateway: the token, the keys, and no page of a foreign site."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import ipaddress
from functools import lru_cache
from urllib.parse import urlsplit

from modelium.gateway.access.keyring import HOLDER, KeyRing, looks_like_key
from modelium.gateway.asgi import App, Headers, Receive, Scope, Send, respond_json
from modelium.gateway.problems import body_of
from modelium.gateway.routes import OPENAI_PATHS
from modelium.models.api_keys import Scope as KeyScope

OPEN_PATHS = frozenset({"/healthz", "/v2/health/live"})
"""Answer without a token: they tell nothing but that the process lives."""

INFERENCE = ("/v1/", "/v2", "/models/")
"""Below these are models; the OpenAI routes beside them are `OPENAI_PATHS`."""

NOT_AUTHORIZED = "send the gateway's token or an API key: Authorization: Bearer TOKEN"
CHALLENGE: Headers = [
    (b"www-authenticate", b'Bearer realm="modelium"'),
    (b"www-authenticate", b'Basic realm="modelium"'),
]

PAGE = "/"
"""Read-only, and linked to from elsewhere."""


class Guard:
    """Lets requests through to ``app``, or answers 401 or 403.

    With a token, every request must carry it or a key: as a bearer, or, so that a browser can
    open the status page, as the password of HTTP Basic on GET. The token opens everything, a
    key what its scopes say; its holder goes on in the request's scope. Without a token
    (loopback only) the Host must name this machine's loopback, which undoes DNS rebinding, and
    a key that is sent counts all the same. In all cases a browser's request from another
    site's page is refused, except for a look at the status page.
    """

    def __init__(self, *, app: App, token: str | None, keys: KeyRing, host: str) -> None:
        """``host``: the address that the gateway listens on."""
        self._app = app
        self._token = token.encode() if token else None
        self._keys = keys
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path: str = scope["path"]
        if path not in OPEN_PATHS and (refusal := self._refusal(scope, path)) is not None:
            status, message = refusal
            reason, headers = ("unauthorized", CHALLENGE) if status == 401 else ("forbidden", [])
            return await respond_json(send, status, body_of(path, status, message, reason), headers)
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, path: str) -> tuple[int, str] | None:
        """Return status and message for who may not pass; note who holds the key that may."""
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
        if self._token is None and not _is_loopback(host, self._host):
            return 403, "without gateway.token only loopback host names are served; set a token"
        if path != PAGE and _is_foreign(origin, site, host):
            return 403, "requests from other sites' pages are not served"
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
        scope[HOLDER] = holder
        return None


def needed_scope(path: str) -> KeyScope:
    """Return what a key must open for a request to ``path``."""
    if path.startswith(INFERENCE) or path in OPENAI_PATHS:
        return "infer"
    return "ingest" if path.startswith("/hooks/") else "admin"


def _presented(authorization: bytes | None, method: str) -> bytes:
    """Return the token or key that a request carries, or nothing."""
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
def _is_loopback(host: bytes, own: str) -> bool:
    """Whether a Host header names this machine's loopback, or ``own``."""
    name = _host_name(host)
    if name in ("localhost", own):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _host_name(host: bytes) -> str:
    try:
        return urlsplit(f"//{host.decode('latin-1')}").hostname or ""
    except ValueError:
        return ""


def _is_foreign(origin: bytes | None, site: bytes | None, host: bytes) -> bool:
    if site is not None and site.lower() in (b"cross-site", b"same-site"):
        return True
    if origin is None:
        return False
    # `null` (sandboxed frames, file pages) has no host and is foreign.
    return origin.partition(b"://")[2].lower() != host.lower()
