"""What is left of a key's limits for all gateways together, and what each takes (no I/O here).

A gateway takes requests ahead, so that few of them wait for the pool, and gives back what it has
not used after `HOLD_S`. In any ``t`` seconds all gateways together admit at most a minute's
allowance and the rate for ``t + EXCESS_S`` seconds, `EXCESS_S` of the rate more than one alone:
what was taken before those seconds may be used for `HOLD_S`, or given back within `BACK_S`.
"""

from __future__ import annotations

from pydantic import Field

from modelium.models.base import Frozen

HOLD_S = 2.0
"""For which a gateway may use what it has taken ahead."""

BACK_S = 2 * HOLD_S
"""After which what was not used is lost instead of given back: the pool is full again by then."""

EXCESS_S = HOLD_S + BACK_S

SLOTS_S = 15.0
"""For which a gateway counts the requests in flight that it has told of; a dead one's end then."""


class Held(Frozen):
    """Requests in flight that one gateway may have."""

    count: int
    until: float
    """Time of the pool's own clock."""


class Pool(Frozen):
    """The state of one key's limits."""

    tokens: float | None = None
    """Requests left of the rate at ``at``; ``None``: a whole minute's allowance."""
    at: float = 0.0
    """Time of the pool's own clock."""
    slots: dict[str, Held] = Field(default_factory=dict)
    """By gateway."""


class Ask(Frozen):
    """What a gateway wants of one key's limits."""

    per_minute: float | None = None
    """The key's rate; ``None``: it has none."""
    most: int | None = None
    """The key's limit of requests in flight; ``None``: it has none."""
    returned: int = 0
    """Requests that were taken ahead and not used."""
    wanted: int = 0
    """Requests to take ahead."""
    slots: int = 0
    """Requests in flight that it wants to have, those that it has included."""


class Grant(Frozen):
    """What it got."""

    tokens: int = 0
    """Requests that it may admit within `HOLD_S`."""
    retry_after_s: float = 0.0
    """Until there is one more, where that are fewer than it wanted."""
    slots: int = 0
    """Requests in flight that it may have for `SLOTS_S`."""


def settled(pool: Pool, ask: Ask, *, gateway: str, now: float) -> tuple[Pool, Grant]:
    """Return the pool after ``gateway`` got what it asks for, and what that is.

    ``now``: time of the pool's clock; one that was set back lets nothing pass.
    """
    tokens, granted, retry_s = pool.tokens, 0, 0.0
    if ask.per_minute is not None:
        room, per_s = max(1.0, ask.per_minute), ask.per_minute / 60
        if tokens is None:
            tokens = room
        else:
            tokens += max(0.0, now - pool.at) * per_s
        tokens = min(room, tokens + max(0, ask.returned))
        granted = max(0, min(ask.wanted, int(tokens)))
        tokens -= granted
        retry_s = max(0.0, 1 - tokens) / per_s if granted < ask.wanted else 0.0
    slots = {name: held for name, held in pool.slots.items() if held.until > now}
    had = slots.pop(gateway, None)
    allowed = 0
    if ask.most is not None:
        free = ask.most - sum(held.count for held in slots.values())
        allowed = max(0, min(ask.slots, free))
        if allowed:
            slots[gateway] = Held(count=allowed, until=now + SLOTS_S)
    elif had is not None:
        slots[gateway] = had
    state = Pool(tokens=tokens, at=max(now, pool.at), slots=slots)
    return state, Grant(tokens=granted, retry_after_s=retry_s, slots=allowed)
