"""The API keys in memory: who presents which, and how much of its allowance is left.

Read from the store now and then, never on a request's path.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from modelium.errors import ModeliumError
from modelium.gateway.asgi import Scope as RequestScope
from modelium.gateway.problems import HttpProblem
from modelium.models import Priority
from modelium.models.api_keys import PREFIX, ApiKey, Scope, digest
from modelium.ports import Clock

logger = logging.getLogger(__name__)

REFRESH_S = 10.0
"""How soon a key that another process issued or revoked is known here."""

CONCURRENCY_RETRY_S = 1.0
"""Retry-After at the bound of concurrent requests: when one ends is not known."""

HOLDER = "modelium.holder"
"""Where a request's scope has its `Holder`; absent for the operator's token."""


class Holder:
    """Whoever presents one key."""

    __slots__ = ("_at", "_clock", "_in_hand", "_tokens", "key", "priority")

    def __init__(self, *, key: ApiKey, priority: Priority | None, clock: Clock) -> None:
        """``priority``: class of its waiting requests, where the key or its team gives one."""
        self.key = key
        self.priority = priority
        self._clock = clock
        self._in_hand = 0
        self._tokens = max(1.0, key.requests_per_minute or 0.0)
        self._at = clock.monotonic()

    def has(self, scope: Scope) -> bool:
        """Whether the key opens ``scope``."""
        return scope in self.key.scopes or "admin" in self.key.scopes

    def may_use(self, model: str) -> bool:
        """Whether the key is for ``model``."""
        return not self.key.models or model in self.key.models

    def enter(self, model: str) -> None:
        """Count a request that begins; `leave` must follow.

        Raises:
            HttpProblem: 403, the key is not for ``model``; 429 with Retry-After, too many at
                once, or more than its rate (a token bucket that holds a minute's worth).
        """
        key = self.key
        if not self.may_use(model):
            raise HttpProblem(403, f"this key is not for {model}", reason="model-not-allowed")
        if key.max_concurrent is not None and self._in_hand >= key.max_concurrent:
            raise HttpProblem(
                429,
                f"this key has {self._in_hand} requests in hand, its bound",
                reason="too-many-at-once",
                retry_after_s=CONCURRENCY_RETRY_S,
            )
        if key.requests_per_minute is not None:
            self._take(key.requests_per_minute / 60)
        self._in_hand += 1

    def leave(self) -> None:
        """Count a request that ended."""
        self._in_hand -= 1

    def _take(self, per_s: float) -> None:
        now = self._clock.monotonic()
        self._tokens = min(max(1.0, per_s * 60), self._tokens + (now - self._at) * per_s)
        self._at = now
        if self._tokens < 1:
            raise HttpProblem(
                429,
                f"this key is good for {per_s * 60:g} requests a minute",
                reason="rate-limited",
                retry_after_s=(1 - self._tokens) / per_s,
            )
        self._tokens -= 1


class KeyRing:
    """All keys that are good now."""

    def __init__(
        self,
        *,
        read: Callable[[], Awaitable[Mapping[str, ApiKey]]],
        clock: Clock,
        important_teams: frozenset[str],
    ) -> None:
        """Start without keys.

        Args:
            read: returns all keys by the hash of their secret.
            clock: for rates.
            important_teams: whose requests are of the high class where their key says nothing.
        """
        self._read = read
        self._clock = clock
        self._important_teams = important_teams
        self._holders: dict[str, Holder] = {}

    def find(self, secret: bytes) -> Holder | None:
        """Return who presents ``secret``; ``None``: nobody, or a key that was revoked."""
        return self._holders.get(digest(secret))

    async def refresh(self) -> None:
        """Read the keys; what is left of each one's allowance stays."""
        found = await self._read()
        self._holders = {
            hashed: self._holders.get(hashed) or self._holder(key)
            for hashed, key in found.items()
            if key.revoked_at is None
        }

    async def run(self) -> None:
        """Refresh for ever; keys stay as they are while they cannot be read."""
        while True:
            await self._clock.sleep(REFRESH_S)
            try:
                await self.refresh()
            except ModeliumError as exc:
                logger.warning("the API keys cannot be read: %s", exc)
            except Exception:
                logger.exception("the API keys cannot be read")

    def _holder(self, key: ApiKey) -> Holder:
        priority = key.priority
        if priority is None and key.team in self._important_teams:
            priority = Priority.HIGH
        return Holder(key=key, priority=priority, clock=self._clock)


def looks_like_key(presented: bytes) -> bool:
    """Whether ``presented`` is meant as a key, good or not."""
    return presented.startswith(PREFIX.encode())


def holder_of(scope: RequestScope) -> Holder | None:
    """Return who sent a request with a key; ``None``: the operator, or loopback without a token."""
    holder: Holder | None = scope.get(HOLDER)
    return holder
