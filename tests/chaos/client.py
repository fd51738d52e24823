"""A client that keeps a journal of what it sent and what came back."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.invariants.journal import Journal

WITHIN_S = 90.0
"""How long a request may take: loads that wait their turn and pauses of the service included."""

THREADS = 2


class Client:
    """Sends completions to models of a service, from threads of its own."""

    def __init__(self, url: str) -> None:
        """``url``: of the gateway."""
        self.url = url
        self.journal = Journal(within_s=WITHIN_S)
        self.models: list[str] = []
        """What the traffic goes to."""
        self._numbers = itertools.count()

    def ask(self, model: str) -> int | None:
        """Send one request over a connection of its own, as `_ask` does."""
        with httpx.Client(trust_env=False) as http:
            return self._ask(model, http)

    def _ask(self, model: str, http: httpx.Client) -> int | None:
        """Send one request; return its status, or ``None`` where the connection broke."""
        name = f"r{next(self._numbers)}"
        self.journal.sent(name, model=model, at=time.time())
        body = {"model": model, "prompt": "hi"}
        try:
            answer = http.post(f"{self.url}/v1/completions", json=body, timeout=WITHIN_S + 10)
        except httpx.TransportError as error:
            self.journal.broke(name, at=time.time(), why=type(error).__name__)
            return None
        said = answer.json() if answer.status_code == 200 else {}
        at = time.time()
        self.journal.answered(name, at=at, status=answer.status_code, model=said.get("model"))
        return answer.status_code

    @contextmanager
    def excused(self, model: str = "") -> Iterator[None]:
        """Excuse what breaks while this runs: of ``model``, or of all."""
        since = time.time()
        try:
            yield
        finally:
            self.journal.fault(since, time.time(), model)

    @contextmanager
    def traffic(self, seed: int) -> Iterator[None]:
        """Send requests to ``models`` while this runs, and wait for the last answers."""
        end = threading.Event()
        senders = [
            threading.Thread(target=self._send, args=(random.Random(f"{seed} {n}"), end))
            for n in range(THREADS)
        ]
        for sender in senders:
            sender.start()
        try:
            yield
        finally:
            end.set()
            for sender in senders:
                sender.join()

    def _send(self, rng: random.Random, end: threading.Event) -> None:
        with httpx.Client(trust_env=False) as http:
            while not end.wait(rng.uniform(0.02, 0.3)):
                if models := list(self.models):
                    self._ask(rng.choice(models), http)
