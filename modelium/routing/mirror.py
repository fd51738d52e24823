"""A copy of the routing table in another process (no I/O here)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from modelium.errors import ModeliumError
from modelium.models import Upstream


class Mirror(Protocol):
    """Is told what happens to a `Switchboard`, whose methods of the same names say what it means.

    Every method but `drained` must return at once.
    """

    def limit(self, *, max_waiting_per_model: int, max_waiting: int, max_wait_s: float) -> None:
        """Have other limits apply."""

    def know(self, names: Mapping[str, int | None]) -> None:
        """Have these models exist, with the versions that a load would bring."""

    def open(self, model: str, upstream: Upstream, *, version: int | None) -> None:
        """Route to ``upstream``."""

    def set_aside(self, model: str, aside: str) -> None:
        """Close ``model``, before it opens elsewhere."""

    def close(self, model: str) -> None:
        """Make new requests wait."""

    def refuse(self, model: str, error: ModeliumError, *, retry_after_s: float) -> None:
        """Refuse the requests that wait."""

    def expect(self, model: str, *, ready_in_s: float, reason: str) -> None:
        """Say when it opens."""

    async def drained(self, model: str, *, timeout_s: float) -> bool:
        """Wait for the requests in flight."""


class Mirrors:
    """All mirrors of a switchboard, as one."""

    def __init__(self) -> None:
        """Start with none."""
        self._all: list[Mirror] = []

    def add(self, mirror: Mirror) -> None:
        """Tell ``mirror``, too."""
        self._all.append(mirror)

    def discard(self, mirror: Mirror) -> None:
        """Tell it nothing any more."""
        if mirror in self._all:
            self._all.remove(mirror)

    def limit(self, *, max_waiting_per_model: int, max_waiting: int, max_wait_s: float) -> None:
        """See `Mirror`, as for the other methods."""
        for mirror in self._all:
            mirror.limit(
                max_waiting_per_model=max_waiting_per_model,
                max_waiting=max_waiting,
                max_wait_s=max_wait_s,
            )

    def know(self, names: Mapping[str, int | None]) -> None:
        """Have these models exist."""
        for mirror in self._all:
            mirror.know(names)

    def open(self, model: str, upstream: Upstream, *, version: int | None) -> None:
        """Route to ``upstream``."""
        for mirror in self._all:
            mirror.open(model, upstream, version=version)

    def set_aside(self, model: str, aside: str) -> None:
        """Close ``model``, before it opens elsewhere."""
        for mirror in self._all:
            mirror.set_aside(model, aside)

    def close(self, model: str) -> None:
        """Make new requests wait."""
        for mirror in self._all:
            mirror.close(model)

    def refuse(self, model: str, error: ModeliumError, *, retry_after_s: float) -> None:
        """Refuse the requests that wait."""
        for mirror in self._all:
            mirror.refuse(model, error, retry_after_s=retry_after_s)

    def expect(self, model: str, *, ready_in_s: float, reason: str) -> None:
        """Say when it opens."""
        for mirror in self._all:
            mirror.expect(model, ready_in_s=ready_in_s, reason=reason)

    async def drained(self, model: str, *, timeout_s: float) -> bool:
        """Wait for the requests in flight at all of them."""
        waits = [mirror.drained(model, timeout_s=timeout_s) for mirror in self._all]
        return all(await asyncio.gather(*waits))
