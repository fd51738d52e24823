"""What one gateway holds of a key's limits, which hold over all gateways (no I/O here).

Times are the gateway's own, monotonic. What was asked for counts from before it was asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelium.models.key_pools import BACK_S, HOLD_S, SLOTS_S, Ask, Grant

RECHECK_S = 0.5
"""After a refusal, until the pool is asked again: another gateway may have given something back."""

SOONEST_S = 0.25
"""However soon the next request is due: the store has other things to do."""

IDLE_S = 2.0
"""After which requests in flight that a gateway may have, and has not, are given back."""

RENEW_S = SLOTS_S / 3
"""Between two words of the requests in flight."""

AWAY_S = 5.0
"""For which a gateway goes by its own part of the limits where nobody answers for the pool."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortage:
    """Why a request is refused."""

    concurrent: bool
    """Too many are in flight; else the rate is exceeded."""
    retry_after_s: float


class Share:
    """One key at one gateway."""

    __slots__ = (
        "_away_until",
        "_back",
        "_most",
        "_part",
        "_peak",
        "_peak_since",
        "_per_minute",
        "_rate_from",
        "_recent",
        "_retry_s",
        "_second",
        "_slots",
        "_slots_at",
        "_slots_from",
        "_spare",
        "_spare_at",
        "_taken_at",
        "_tokens",
        "used",
    )

    def __init__(self, *, per_minute: float | None, most: int | None, now: float) -> None:
        """Hold nothing; the limits are the key's, for all gateways together."""
        self._per_minute, self._most = per_minute, most
        self.used = 0
        """Requests in flight."""
        self._tokens = self._back = 0
        self._taken_at = now
        self._rate_from = self._slots_from = now
        """When the pool may be asked again."""
        self._retry_s = 0.0
        self._slots, self._slots_at = 0, now
        self._peak, self._peak_since = 0, now
        self._second, self._recent = now, [0, 0]
        self._away_until = now
        self._part = 1.0
        self._spare: float | None = None
        self._spare_at = now

    def enter(self, now: float) -> bool:
        """Count the start of a request if it fits what is held."""
        self._expire(now)
        away = now < self._away_until
        if self._most is not None and self.used >= (self._own_most() if away else self._slots):
            return False
        if self._per_minute is not None and not self._take(now, away=away):
            return False
        self.used += 1
        self._peak = max(self._peak, self.used)
        return True

    def leave(self) -> None:
        """Count the end of a request."""
        self.used -= 1

    def wants(self, now: float) -> Ask | None:
        """Return what the pool is to be asked for a request that did not fit; ``None``: refuse it.

        `on_grant` or `on_away` takes the answer.
        """
        if now < self._away_until:
            return None
        self._expire(now)
        short_of_tokens = self._per_minute is not None and not self._tokens
        short_of_slots = self._most is not None and self.used >= self._slots
        if (short_of_tokens and now < self._rate_from) or (
            short_of_slots and now < self._slots_from
        ):
            return None
        return self._ask(
            now,
            wanted=1 + max(self._recent) if short_of_tokens else 0,
            slots=self.used + 1 if short_of_slots else self._slots,
        )

    def due(self, now: float) -> Ask | None:
        """Return what to give back, or to say again; ``None``: nothing."""
        self._expire(now)
        slots = self._slots
        if now - self._peak_since >= IDLE_S:
            slots = min(slots, max(self._peak, self.used))
            self._peak, self._peak_since = self.used, now
        again = bool(self._slots) and now - self._slots_at >= RENEW_S
        if now < self._away_until or not (self._back or again or slots < self._slots):
            return None
        return self._ask(now, wanted=0, slots=slots)

    def on_grant(self, ask: Ask, grant: Grant, *, asked_at: float, now: float) -> None:
        """Take what the pool gave for ``ask``."""
        if grant.tokens:
            # The oldest counts for all.
            self._taken_at = min(self._taken_at, asked_at) if self._tokens else asked_at
            self._tokens += grant.tokens
        if grant.tokens < ask.wanted:
            self._retry_s = grant.retry_after_s
            self._rate_from = now + min(RECHECK_S, max(SOONEST_S, grant.retry_after_s))
        if self._most is not None:
            if grant.slots < ask.slots:
                self._slots_from = now + RECHECK_S
            self._slots, self._slots_at = grant.slots, asked_at

    def on_away(self, ask: Ask, *, gateways: int, now: float) -> None:
        """Go by the own part of the limits for a while: nobody answers for the pool."""
        self._away_until, self._part = now + AWAY_S, 1 / max(1, gateways)

    def shortage(self, now: float) -> Shortage:
        """Return why a request does not fit."""
        away = now < self._away_until
        most = self._own_most() if away else self._slots
        if self._most is not None and self.used >= most:
            return Shortage(concurrent=True, retry_after_s=1.0)
        retry_s = max(self._retry_s if not away else 0.0, RECHECK_S)
        return Shortage(concurrent=False, retry_after_s=retry_s)

    def _ask(self, now: float, *, wanted: int, slots: int) -> Ask:
        returned = self._back if now - self._taken_at < BACK_S else 0
        self._back = 0
        return Ask(
            per_minute=self._per_minute,
            most=self._most,
            returned=returned,
            wanted=wanted,
            slots=slots if self._most is not None else 0,
        )

    def _take(self, now: float, *, away: bool) -> bool:
        if not self._tokens and not (away and self._take_spare(now)):
            return False
        if self._tokens:
            self._tokens -= 1
        if now - self._second >= 1.0:
            gone = now - self._second >= 2.0
            self._second, self._recent = now, [0, 0 if gone else self._recent[0]]
        self._recent[0] += 1
        return True

    def _take_spare(self, now: float) -> bool:
        """Take one of the own part of the rate."""
        most = max(1.0, (self._per_minute or 0.0) * self._part)
        passed = max(0.0, now - self._spare_at)
        had = 1.0 if self._spare is None else self._spare
        self._spare = min(most, had + passed * (self._per_minute or 0.0) / 60 * self._part)
        self._spare_at = now
        if self._spare < 1:
            return False
        self._spare -= 1
        return True

    def _expire(self, now: float) -> None:
        if self._tokens and now - self._taken_at >= HOLD_S:
            self._back += self._tokens
            self._tokens = 0
        if self._slots and now - self._slots_at >= SLOTS_S:
            self._slots = 0

    def _own_most(self) -> int:
        return max(1, int((self._most or 0) * self._part))
