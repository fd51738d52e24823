"""One worker as the service sees it: a mirror of its switchboard."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from modelium.errors import ModeliumError
from modelium.gateway.access.keyring import Keyring
from modelium.gateway.problems import HttpProblem
from modelium.gateway.workers.channel import Channel, Frame
from modelium.gateway.workers.ledger import Ledger
from modelium.models import Upstream
from modelium.models.api_keys import ApiKey

ACK_S = 10.0
"""How long a worker may take to do what it was told before; its event loop stands still then."""

Nodes = Callable[[], Awaitable[Mapping[str, str]]]

PLACE_S = 0.05
"""How long a request waits for a place that another worker may be giving back: a client that has
its answer may send the next request before the service hears of it."""


class Link:
    """What is sent to a worker, in order, and what it answers."""

    def __init__(
        self,
        *,
        share: int,
        keys: Keyring,
        ledger: Callable[[Mapping[str, int]], Ledger],
        kill: Callable[[str], None],
        nodes: Nodes | None = None,
    ) -> None:
        """Create it; `channel` is to be connected.

        Args:
            share: among how many workers limits are divided.
            keys: hold the limits of keys.
            ledger: takes the counts; it is given the openings.
            kill: ends the process, for the reason that it is given.
            nodes: returns the digest of each node's secret → the node; ``None``: there are none.
        """
        self.channel = Channel(on_frame=self._on_frame, on_end=self._on_end)
        self.up = asyncio.Event()
        self.ended = asyncio.Event()
        self._share = share
        self._keys = keys
        self._kill = kill
        self._nodes = nodes
        self._telling: set[asyncio.Task[None]] = set()
        self._openings: dict[str, int] = {}
        self._upstreams: dict[str, Upstream] = {}
        self._ledger = ledger(self._openings)
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[bool]] = {}

    # --- as `Mirror` ----------------------------------------------------------------------

    def limit(self, *, max_waiting_per_model: int, max_waiting: int, max_wait_s: float) -> None:
        """Have a share of the limits apply."""
        each = math.ceil(max_waiting_per_model / self._share)
        self.channel.send("limit", each, math.ceil(max_waiting / self._share), max_wait_s)

    def know(self, names: Mapping[str, int | None]) -> None:
        """Have these models exist."""
        self.channel.send("know", dict(names))

    def open(self, model: str, upstream: Upstream, *, version: int | None) -> None:
        """Route to ``upstream``."""
        if self._upstreams.get(model) != upstream:
            self._openings[model] = next(self._numbers)
            self._upstreams[model] = upstream
        number = self._openings[model]
        self.channel.send("open", model, upstream.model_dump(mode="json"), version, number)

    def set_aside(self, model: str, aside: str) -> None:
        """Close ``model``, before it opens elsewhere."""
        self.channel.send("set_aside", model, aside)

    def close(self, model: str) -> None:
        """Make new requests wait."""
        self._upstreams.pop(model, None)
        self.channel.send("close", model)

    def refuse(self, model: str, error: ModeliumError, *, retry_after_s: float) -> None:
        """Refuse the requests that wait."""
        self.channel.send("refuse", model, str(error), error.reason, retry_after_s)

    def expect(self, model: str, *, ready_in_s: float, reason: str) -> None:
        """Say when it opens."""
        self.channel.send("expect", model, ready_in_s, reason)

    async def drained(self, model: str, *, timeout_s: float) -> bool:
        """Wait for the requests in flight; a worker that does not answer has none any more."""
        if not self.up.is_set():
            return True
        await self.sync()  # it has closed the model: none begins after this
        return await self._ask("drain", model, timeout_s, within_s=timeout_s + ACK_S)

    # --- further --------------------------------------------------------------------------

    def give(self, keys: Mapping[str, ApiKey]) -> None:
        """Have ``keys`` apply, by the hash of their secret."""
        self.channel.send("keys", {h: key.model_dump(mode="json") for h, key in keys.items()})

    async def sync(self) -> None:
        """Wait until all that was sent is done; a worker that does not answer is ended."""
        await self._ask("sync", within_s=ACK_S)

    async def _ask(self, *question: Any, within_s: float) -> bool:
        if self.ended.is_set():
            return True
        number, word, *rest = next(self._numbers), *question
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self.channel.send(word, number, *rest)
        try:
            async with asyncio.timeout(within_s):
                return bool(await answer)
        except TimeoutError:
            self._kill(f"it did not answer within {within_s:g} s")
            await self.ended.wait()
            return True
        finally:
            del self._asked[number]

    def _on_frame(self, frame: Frame) -> None:
        match frame:
            case ["counts", summed, batch]:
                self._ledger.apply(summed, batch)
            case ["answer", number, answer]:
                if (waiting := self._asked.get(number)) is not None and not waiting.done():
                    waiting.set_result(answer)
            case ["enter", number, key]:
                self._enter(number, key)
            case ["nodes"]:
                telling = asyncio.ensure_future(self._tell_nodes())
                self._telling.add(telling)
                telling.add_done_callback(self._telling.discard)
            case ["up"]:
                self.up.set()

    def _on_end(self) -> None:
        self.ended.set()
        self._ledger.settle()
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_result(True)

    async def _tell_nodes(self) -> None:
        """Say which nodes there are; where they cannot be read, the earlier ones stay."""
        if self._nodes is not None:
            try:
                self.channel.send("nodes", dict(await self._nodes()))
            except ModeliumError as exc:
                self.channel.send("nodes", str(exc))

    def _enter(self, number: int, key: str, *, again: bool = False) -> None:
        """Answer whether a request of a limited key may start."""
        if self.ended.is_set():
            return
        holder, refusal = self._keys.holder(key), None
        try:
            if holder is None:
                raise HttpProblem(401, "this key was revoked", reason="unauthorized")
            self._ledger.enter(key, holder)
        except HttpProblem as exc:
            if exc.reason == "too-many-at-once" and not again:
                later = asyncio.get_running_loop().call_later
                later(PLACE_S, lambda: self._enter(number, key, again=True))
                return
            refusal = [exc.status, str(exc), exc.reason, exc.retry_after_s]
        self.channel.send("entered", number, refusal)
