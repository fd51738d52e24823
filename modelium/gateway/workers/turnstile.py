"""Limited keys at a worker: each request asks the service, where their limits are counted."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping

from modelium.gateway.problems import HttpProblem
from modelium.models.api_keys import ApiKey


class Turnstile:
    """Lets requests of limited keys in; others need not pass it."""

    def __init__(self, *, ask: Callable[[int, str], None], left: Callable[[str], None]) -> None:
        """``ask``: sends a numbered question with the key's hash; ``left``: a request's end."""
        self._ask = ask
        self._left = left
        self._limited: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self._asked: dict[int, tuple[str, asyncio.Future[None]]] = {}

    def take(self, keys: Mapping[str, ApiKey]) -> Mapping[str, ApiKey]:
        """Return ``keys`` without the limits that are kept here from now on."""
        self._limited = {
            key.id: hashed
            for hashed, key in keys.items()
            if key.requests_per_minute is not None or key.max_concurrent is not None
        }
        unlimited = {"requests_per_minute": None, "max_concurrent": None}
        return {hashed: key.model_copy(update=unlimited) for hashed, key in keys.items()}

    def limited(self, key: ApiKey) -> str | None:
        """Return the hash of a limited key."""
        return self._limited.get(key.id)

    async def enter(self, key: str) -> None:
        """Wait until a request of the key with this hash may start; call `leave` when it ends.

        Raises:
            HttpProblem: 429, as `KeyHolder.enter`.
        """
        number = next(self._numbers)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked[number] = key, answer
        self._ask(number, key)
        await answer

    def leave(self, key: str) -> None:
        """Count the end of a request."""
        self._left(key)

    def answered(self, number: int, refusal: tuple[int, str, str, float | None] | None) -> None:
        """Take the service's answer."""
        key, answer = self._asked.pop(number)
        if refusal is None and answer.cancelled():
            self._left(key)  # its client has gone while it was asked
        elif refusal is None:
            answer.set_result(None)
        elif not answer.cancelled():
            status, message, reason, retry_after_s = refusal
            problem = HttpProblem(status, message, reason=reason, retry_after_s=retry_after_s)
            answer.set_exception(problem)
