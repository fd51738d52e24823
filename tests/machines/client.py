"""Clients at every gateway, and the account of each request: sent where, when, and what came."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.machines.network import HUB, Network
from tests.machines.node import MAX_WAIT_S

WITHIN_S = MAX_WAIT_S + 30.0
"""How long a client waits; the gateways give up a request that waits for its model before."""

SHUTTING_DOWN = "Modelium is shutting down"
"""What a gateway tells those who wait when it is stopped: ask another one."""

PAUSE_S = (0.1, 0.6)
"""Between two requests of one client."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model that is asked, and what it has to answer."""

    name: str
    weight: float | None = None
    """Of an ONNX model `tests.samples.tiny_onnx`, whose answers tell it from others; ``None``: an
    embedder of llama.cpp, whose answers bear its name."""

    def ask(self, http: httpx.Client, url: str, id: str) -> tuple[int, str]:
        """Send a request; return the status and what is wrong with the answer, if anything."""
        sent = {"X-Request-Id": id}
        if self.weight is None:
            body: object = {"model": self.name, "input": "a b a"}
            answer = http.post(f"{url}/v1/embeddings", json=body, headers=sent)
            if answer.status_code != 200:
                return answer.status_code, answer.text[:200]
            said = answer.json()
            right = said.get("model") == self.name and len(said["data"]) == 1
            return 200, "" if right else f"answered by {said.get('model')}"
        given = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
        path = f"{url}/v2/models/{self.name}/infer"
        answer = http.post(path, json={"inputs": [given]}, headers=sent)
        if answer.status_code != 200:
            return answer.status_code, answer.text[:200]
        data = answer.json()["outputs"][0]["data"]
        right = all(abs(value - 10 * self.weight) < 1e-3 for value in data)
        return 200, "" if right else f"answered {data}, weight {self.weight}"


@dataclass(kw_only=True, slots=True)
class Request:
    """One request, and how it ended."""

    id: str
    gateway: str
    model: str
    sent: float
    """Seconds of the monotonic clock, as all times here."""
    ended: float | None = None
    status: int | None = None
    """``None``: no whole answer."""
    said: str = ""
    """What is wrong with the answer, or how the connection broke."""

    def __str__(self) -> str:
        took = f"{self.ended - self.sent:.1f} s" if self.ended is not None else "no end"
        return f"{self.id} to {self.model} by {self.gateway}: {self.status}, {took}: {self.said}"


@dataclass(kw_only=True, slots=True)
class Away:
    """A time at which a machine cannot answer, and which models were on it when it began."""

    machine: str
    since: float
    until: float = float("inf")
    models: frozenset[str] = frozenset()


@dataclass(kw_only=True, slots=True)
class Account:
    """All requests of one scenario, judged."""

    requests: tuple[Request, ...]
    away: tuple[Away, ...]
    verdicts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def judge(self) -> None:
        """Say of each request what became of it.

        ``answered``: as it should be. ``gone``: its own gateway's machine went, which broke the
        connection, or its service was stopped while the request waited. ``lost``: it was on its way when the machine with its model went. Whatever else
        did not get its answer is wrong: there was a place to go.
        """
        for request in self.requests:
            verdict = self._verdict(request)
            self.verdicts[verdict] += 1
            if verdict == "wrong":
                self.wrong.append(f"request {request}")

    def _verdict(self, request: Request) -> str:
        ended = request.ended if request.ended is not None else float("inf")
        if request.status == 200 and not request.said:
            return "answered"
        for away in self.away:
            during = request.sent <= away.until and ended >= away.since
            ended_there = request.status is None or SHUTTING_DOWN in request.said
            if away.machine == request.gateway and ended_there and during:
                return "gone"
            on_its_way = request.sent <= away.since <= ended
            if on_its_way and request.model in away.models and request.status != 200:
                return "lost"
        return "wrong"


class Clients:
    """Threads in the hub that send requests to the gateways of all machines."""

    def __init__(self, *, network: Network, gateways: Mapping[str, str], token: str) -> None:
        """``gateways``: machine → URL."""
        self.models: list[Model] = []
        """What is asked, from now on."""
        self._network = network
        self._gateways = dict(gateways)
        self._headers = {"Authorization": f"Bearer {token}"}
        self._numbers = itertools.count(1)
        self._requests: list[Request] = []
        self._away: list[Away] = []
        self._closed: set[str] = set()

    # --- what a scenario says of its faults -----------------------------------------------------

    @contextmanager
    def without(self, machine: str, *, models: Iterable[str] = ()) -> Iterator[None]:
        """Note that ``machine`` cannot answer while the body runs.

        ``models``: that are loaded there when it begins.
        """
        away = Away(machine=machine, since=time.monotonic(), models=frozenset(models))
        self._away.append(away)
        try:
            yield
        finally:
            away.until = time.monotonic()

    @contextmanager
    def spared(self, machine: str) -> Iterator[None]:
        """Send nothing to the gateway of ``machine``, as a load balancer that was told."""
        self._closed.add(machine)
        try:
            yield
        finally:
            self._closed.discard(machine)

    # --- what is sent ---------------------------------------------------------------------------

    def ask(self, model: Model, gateway: str, http: httpx.Client) -> Request:
        """Send one request, and return it when it has ended. Call it on a thread in the hub."""
        number = f"r{next(self._numbers)}"
        sent = time.monotonic()
        request = Request(id=number, gateway=gateway, model=model.name, sent=sent)
        self._requests.append(request)
        try:
            request.status, request.said = model.ask(http, self._gateways[gateway], number)
        except (httpx.TransportError, ValueError, KeyError, LookupError) as error:
            request.said = f"{type(error).__name__}: {error}"
        request.ended = time.monotonic()
        return request

    @contextmanager
    def traffic(self, seed: str, *, per_gateway: int = 1) -> Iterator[None]:
        """Send requests for `models` to each gateway while the body runs; wait for the last one."""
        end = threading.Event()
        senders = [
            threading.Thread(
                target=self._send, args=(gateway, random.Random(f"{seed} {gateway} {n}"), end)
            )
            for gateway in self._gateways
            for n in range(per_gateway)
        ]
        for sender in senders:
            sender.start()
        try:
            yield
        finally:
            end.set()
            for sender in senders:
                sender.join()

    def _send(self, gateway: str, rng: random.Random, end: threading.Event) -> None:
        self._network.enter(HUB)
        with self._http() as http:
            while not end.wait(rng.uniform(*PAUSE_S)):
                if self.models and gateway not in self._closed:
                    self.ask(rng.choice(self.models), gateway, http)

    def _http(self) -> httpx.Client:
        timeout = httpx.Timeout(WITHIN_S, connect=10.0)
        # To read the certificates that nobody shows takes longer than a request.
        return httpx.Client(headers=self._headers, timeout=timeout, trust_env=False, verify=False)

    def all_answer(self, *, within_s: float) -> list[str]:
        """Ask every model once by every gateway, again until it answers; return what did not."""
        wrong: list[str] = []

        def run(gateway: str) -> None:
            self._network.enter(HUB)
            deadline = time.monotonic() + within_s
            with self._http() as http:
                for model in list(self.models):
                    while (request := self.ask(model, gateway, http)).status != 200:
                        if time.monotonic() > deadline:
                            wrong.append(f"no answer in the end: {request}")
                            break
                        time.sleep(1.0)

        self._in_threads(run, self._gateways)
        return wrong

    def send(self, method: str, machine: str, path: str) -> tuple[int, Any]:
        """Ask a gateway something else; return status and JSON, or 0 where it does not answer."""
        found: list[tuple[int, Any]] = []

        def run(gateway: str) -> None:
            self._network.enter(HUB)
            try:
                with self._http() as http:
                    url = f"{self._gateways[gateway]}{path}"
                    answer = http.request(method, url, timeout=20.0)
                found.append((answer.status_code, answer.json()))
            except (httpx.TransportError, ValueError):
                found.append((0, None))

        self._in_threads(run, [machine])
        return found[0]

    def _in_threads(self, run: object, gateways: Iterable[str]) -> None:
        assert callable(run)
        threads = [threading.Thread(target=run, args=(gateway,)) for gateway in gateways]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    # --- the account ----------------------------------------------------------------------------

    def settle(self) -> Account:
        """Return the account since the last call, judged."""
        requests, self._requests = tuple(self._requests), []
        away, self._away = tuple(self._away), []
        account = Account(requests=requests, away=away)
        account.judge()
        return account
