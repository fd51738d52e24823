"""The API keys in memory, with the use that each key makes of its limits.

They are read from the store periodically, never on a request's path.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from modelium.errors import ModeliumError
from modelium.gateway.access.limits import SharedLimits
from modelium.gateway.asgi import Scope as RequestScope
from modelium.gateway.problems import HttpProblem
from modelium.models import Priority
from modelium.models.api_keys import PREFIX, ApiKey, Scope, digest
from modelium.ports import Clock

logger = logging.getLogger(__name__)

REFRESH_S = 10.0
"""Delay until a key that another process issued or revoked takes effect here."""

CONCURRENCY_RETRY_S = 1.0
"""Retry-After at the limit of concurrent requests; when one of them ends is unknown."""

OnKeys = Callable[[Mapping[str, ApiKey]], Awaitable[None]]
"""Is given all keys by the hash of their secret."""

KEY_HOLDER = "modelium.key_holder"
"""Key of the `KeyHolder` in a request's ASGI scope; absent for the operator's token."""


class KeyHolder:
    """The client that presents one key, and what it uses of the key's limits."""

    __slots__ = ("_at", "_clock", "_concurrent", "_limits", "_tokens", "key", "priority")

    def __init__(
        self,
        *,
        key: ApiKey,
        priority: Priority | None,
        clock: Clock,
        limits: SharedLimits | None = None,
    ) -> None:
        """Use nothing of its limits yet.

        Args:
            key: what was presented.
            priority: class of its waiting requests, if the key or its team has one.
            clock: for rates and expiry.
            limits: those that hold over several gateways; ``None``: this is the only one.
        """
        limited = key.requests_per_minute is not None or key.max_concurrent is not None
        self._limits = limits if limited else None
        self.key = key
        self.priority = priority
        self._clock = clock
        self._concurrent = 0
        self._tokens = max(1.0, key.requests_per_minute or 0.0)
        self._at = clock.monotonic()

    def is_expired(self) -> bool:
        """Whether the key's time is over."""
        return self.key.expires_at is not None and self._clock.time() >= self.key.expires_at

    def has(self, scope: Scope) -> bool:
        """Whether the key grants ``scope``."""
        return scope in self.key.scopes or "admin" in self.key.scopes

    def may_use(self, model: str) -> bool:
        """Whether the key may use ``model``."""
        return not self.key.models or model in self.key.models

    def check(self, model: str) -> None:
        """Raise `HttpProblem` (403) if the key may not use ``model``."""
        if not self.may_use(model):
            raise HttpProblem(403, f"this key may not use {model}", reason="model-not-allowed")

    async def admit(self) -> None:
        """Count the start of a request; call `leave` when it ends.

        Raises:
            HttpProblem: 429 with Retry-After, too many concurrent requests or rate exceeded (a
                token bucket of one minute's requests).
        """
        if self._limits is None:
            self.enter()
            return
        shortage = await self._limits.enter(self.key)
        if shortage is None:
            return
        if shortage.concurrent:
            raise _too_many(self.key.max_concurrent or 0)
        raise _too_fast(self.key.requests_per_minute or 0.0, shortage.retry_after_s)

    def enter(self) -> None:
        """Do what `admit` does, where this is the only gateway."""
        key = self.key
        if key.max_concurrent is not None and self._concurrent >= key.max_concurrent:
            raise _too_many(self._concurrent)
        if key.requests_per_minute is not None:
            self._take(key.requests_per_minute / 60)
        self._concurrent += 1

    def leave(self) -> None:
        """Count the end of a request."""
        if self._limits is not None:
            self._limits.leave(self.key)
        else:
            self._concurrent -= 1

    def _take(self, per_s: float) -> None:
        now = self._clock.monotonic()
        self._tokens = min(max(1.0, per_s * 60), self._tokens + (now - self._at) * per_s)
        self._at = now
        if self._tokens < 1:
            raise _too_fast(per_s * 60, (1 - self._tokens) / per_s)
        self._tokens -= 1


def _too_many(concurrent: int) -> HttpProblem:
    return HttpProblem(
        429,
        f"this key already has {concurrent} concurrent requests, its limit",
        reason="too-many-at-once",
        retry_after_s=CONCURRENCY_RETRY_S,
    )


def _too_fast(per_minute: float, retry_after_s: float) -> HttpProblem:
    return HttpProblem(
        429,
        f"this key is limited to {per_minute:g} requests per minute",
        reason="rate-limited",
        retry_after_s=retry_after_s,
    )


class Keyring:
    """All valid keys."""

    def __init__(
        self,
        *,
        read: Callable[[], Awaitable[Mapping[str, ApiKey]]],
        clock: Clock,
        important_teams: frozenset[str],
        limits: SharedLimits | None = None,
    ) -> None:
        """Start without keys.

        Args:
            read: returns all keys by the hash of their secret.
            clock: for rates and expiry.
            important_teams: teams whose requests have high priority unless their key has one.
            limits: those that hold over several gateways; ``None``: this is the only one.
        """
        self._limits = limits
        self._read = read
        self._clock = clock
        self._important_teams = important_teams
        self._holders: dict[str, KeyHolder] = {}
        self._revoked: frozenset[str] = frozenset()
        self._listeners: list[OnKeys] = []

    def listen(self, listener: OnKeys) -> None:
        """Have ``listener`` called with all keys after each refresh, which waits for it."""
        self._listeners.append(listener)

    def find(self, secret: bytes) -> KeyHolder | None:
        """Return the holder of ``secret``; ``None``: the key is unknown or revoked."""
        return self._holders.get(digest(secret))

    def holder(self, hashed: str) -> KeyHolder | None:
        """Return the holder of the key whose secret has this hash; ``None`` as for `find`."""
        return self._holders.get(hashed)

    def is_revoked(self, secret: bytes) -> bool:
        """Whether ``secret`` is that of a key that was revoked, and is still listed."""
        return digest(secret) in self._revoked

    def rank(self, important_teams: frozenset[str]) -> None:
        """Have ``important_teams`` apply, in place of the earlier ones, to all keys."""
        self._important_teams = important_teams
        for holder in self._holders.values():
            holder.priority = self._priority(holder.key)

    async def refresh(self) -> None:
        """Read the keys."""
        found = await self._read()
        self.take(found)
        for listener in self._listeners:
            await listener(found)

    def take(self, found: Mapping[str, ApiKey]) -> None:
        """Have these keys apply; the use of the limits of known keys is kept."""
        self._holders = {
            hashed: self._holders.get(hashed) or self._holder(key)
            for hashed, key in found.items()
            if key.revoked_at is None
        }
        self._revoked = frozenset(h for h, key in found.items() if key.revoked_at is not None)

    async def run(self) -> None:
        """Refresh periodically, for ever; on a failure the previous keys stay valid."""
        while True:
            await self._clock.sleep(REFRESH_S)
            try:
                await self.refresh()
            except ModeliumError as exc:
                logger.warning("cannot read the API keys, the previous ones stay valid: %s", exc)
            except Exception:
                logger.exception("cannot read the API keys, the previous ones stay valid")

    def _holder(self, key: ApiKey) -> KeyHolder:
        return KeyHolder(
            key=key, priority=self._priority(key), clock=self._clock, limits=self._limits
        )

    def _priority(self, key: ApiKey) -> Priority | None:
        if key.priority is None and key.team in self._important_teams:
            return Priority.HIGH
        return key.priority


def looks_like_key(presented: bytes) -> bool:
    """Whether ``presented`` has the form of a key, valid or not."""
    return presented.startswith(PREFIX.encode())


def key_holder(scope: RequestScope) -> KeyHolder | None:
    """Return the holder of a request's key; ``None``: the operator, or loopback without a key."""
    holder: KeyHolder | None = scope.get(KEY_HOLDER)
    return holder
