"""Authentication and authorization: the operator's token, API keys, no cross-site requests."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit

from modelium.config.hosts import is_loopback
from modelium.gateway.access.identities import Identities, looks_like_node
from modelium.gateway.access.keyring import KEY_HOLDER, Keyring, looks_like_key
from modelium.gateway.access.strangers import MISSING, Strangers
from modelium.gateway.asgi import App, Headers, Receive, Scope, Send, peer, respond_json
from modelium.gateway.forwarding import SENDER, sent_by
from modelium.gateway.problems import HttpProblem, body_of, headers_of
from modelium.models.api_keys import Scope as KeyScope
from modelium.models.openai_paths import OPENAI_PATHS

OPEN_PATHS = frozenset({"/healthz", "/v2/health/live"})
"""Need no token: they reveal only that the process is alive."""

INFERENCE = ("/v1/", "/v2", "/models/")
"""Path prefixes of inference; `OPENAI_PATHS` are the others."""

PEERS = "/peer/"
"""Path prefix of what nodes fetch from each other."""

NOT_AUTHORIZED = "send the gateway's token or an API key: Authorization: Bearer TOKEN"
MALFORMED = (
    "the Authorization header has no form that is understood here: send it as "
    "Authorization: Bearer TOKEN, or on GET as the password of HTTP Basic"
)
UNKNOWN = "this token or API key is not known here; check it, or ask for a new one"
REVOKED = "this key was revoked; ask for a new one (`modelium keys create`)"
EXPIRED = "this key has expired; ask for a new one (`modelium keys create`)"
REALM = 'Bearer realm="modelium"'
DESCRIPTIONS = {
    "wrong": "the token is not known",
    "revoked": "the token was revoked",
    "expired": "the token expired",
}
"""Reason of a 401 → the challenge's ``error_description``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why a request is not let through."""

    status: int
    message: str
    reason: str = "forbidden"
    """A slug: the 401's reason for the log, or the error's."""
    headers: Headers = field(default_factory=list)


def unauthorized(message: str, reason: str) -> Refusal:
    """Return a 401 with the challenges of RFC 6750 and, for browsers, of HTTP Basic.

    Without credentials, or in another form, the challenge has no error. Only who shows a key's
    secret is told that the key is there, expired or revoked.
    """
    bearer = REALM
    if reason in DESCRIPTIONS:
        bearer += f', error="invalid_token", error_description="{DESCRIPTIONS[reason]}"'
    challenges = [
        (b"www-authenticate", bearer.encode()),
        (b"www-authenticate", b'Basic realm="modelium"'),
    ]
    return Refusal(status=401, message=message, reason=reason, headers=challenges)


def _lacks(scope: KeyScope) -> Refusal:
    challenge = f'{REALM}, error="insufficient_scope", scope="{scope}"'
    return Refusal(
        status=403,
        message=f"this key does not have the scope {scope!r}",
        headers=[(b"www-authenticate", challenge.encode())],
    )


PAGE = "/"
"""The status page: read-only, and other sites may link to it."""


class AuthMiddleware:
    """Passes authorized requests to ``app``; answers all others with 401 or 403.

    With a token configured, every request must carry the token or an API key: as a bearer token
    or, so that a browser can open the status page, as the password of HTTP Basic on GET. The
    token grants everything, a key what its scopes say; the key's `KeyHolder` is stored in the
    request's ASGI scope. The secret of a node grants inference and what nodes fetch from each
    other; its `Sender` is stored in the scope. Without a token (loopback only) the Host header must
    name loopback, which defeats DNS rebinding; a key that is sent is checked nevertheless. In both
    cases a browser's cross-site request is refused, except for the status page.
    """

    def __init__(
        self,
        *,
        app: App,
        token: str | None,
        keys: Keyring,
        nodes: Identities | None = None,
        host: str,
        strangers: Strangers,
    ) -> None:
        """Create it.

        Args:
            app: what authorized requests are passed to.
            token: the operator's.
            keys: the API keys.
            nodes: those that share the store; ``None``: it is not shared.
            host: the address on which the gateway listens.
            strangers: hear of each 401.
        """
        self._app = app
        self._token = token.encode() if token else None
        self._keys = keys
        self._nodes = nodes
        self._host = host
        self._strangers = strangers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["path"] not in OPEN_PATHS and (refusal := self._refusal(scope)) is not None:
            return await self._refuse(refusal, scope, send)
        await self._app(scope, receive, send)

    async def _refuse(self, refusal: Refusal, scope: Scope, send: Send) -> None:
        status, message, reason = refusal.status, refusal.message, refusal.reason
        headers = refusal.headers
        if status == 401:
            try:
                await self._strangers.refused(
                    peer(scope), reason=reason, request=f"{scope['method']} {scope['path']}"
                )
            except HttpProblem as exc:
                status, message, reason = exc.status, str(exc), exc.reason
                headers = [*headers_of(exc), (b"connection", b"close")]
            else:
                reason = "unauthorized"
        await respond_json(send, status, body_of(scope["path"], status, message, reason), headers)

    def _refusal(self, scope: Scope) -> Refusal | None:
        """Return why a request is refused, if it is; store the `KeyHolder` of an accepted key."""
        path: str = scope["path"]
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
            message = "without gateway.token, Host must name loopback; set gateway.token"
            return Refusal(status=403, message=message)
        presented = _presented(authorization, scope["method"])
        node = self._nodes is not None and looks_like_node(presented)
        # A node passes on what its client said of itself, and has checked it.
        if path != PAGE and not node and _is_cross_site(origin, site, host):
            return Refusal(status=403, message="cross-site browser requests are refused")
        return self._identify(presented, authorization, scope)

    def _identify(
        self, presented: bytes, authorization: bytes | None, scope: Scope
    ) -> Refusal | None:
        """Return why credentials are refused, if they are."""
        if self._token is not None and hmac.compare_digest(presented, self._token):
            return None
        if self._nodes is not None and looks_like_node(presented):
            return self._identify_node(self._nodes.find(presented), scope)
        if not looks_like_key(presented):
            if self._token is None:
                return None
            if authorization is None:
                return unauthorized(NOT_AUTHORIZED, MISSING)
            if not presented:
                return unauthorized(MALFORMED, "malformed")
            return unauthorized(UNKNOWN, "wrong")
        holder = self._keys.find(presented)
        if holder is None:
            if self._keys.is_revoked(presented):
                return unauthorized(REVOKED, "revoked")
            return unauthorized(UNKNOWN, "wrong")
        if holder.is_expired():
            return unauthorized(EXPIRED, "expired")
        if not holder.has(needed := needed_scope(scope["path"])):
            return _lacks(needed)
        scope[KEY_HOLDER] = holder
        return None

    def _identify_node(self, node: str | None, scope: Scope) -> Refusal | None:
        if node is None:
            return unauthorized(UNKNOWN, "wrong")
        path = scope["path"]
        if not path.startswith(PEERS) and needed_scope(path) != "infer":
            return _lacks(needed_scope(path))
        scope[SENDER] = sent_by(node, scope["headers"])
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
