"""CPU that a request costs where 1, 2 and 4 processes answer clients, and what they count.

The same requests at the same rate, over connections of their own, go to a gateway that answers
itself, to one with two workers and to one with four, in alternating rounds, before one engine in a
process of its own. CPU time is of all processes of a gateway, the service's included. Figures are
medians over the rounds. Then each gateway's counters are compared with what was sent. The last
lines are the goals.

    make bench BENCH=gateway_workers [ARGS="--rate 400 --seconds 4 --rounds 3"]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from bench import proxies
from bench.goals import Goal, print_goals
from modelium import config
from modelium.app.service import GIL_INTERVAL_S
from modelium.clock import SystemClock
from modelium.gateway import Gateway
from modelium.metrics import Metrics
from modelium.models import Upstream
from modelium.models.api_keys import ApiKey, digest
from modelium.routing.switchboard import Switchboard
from modelium.traffic import TrafficBook
from tests.fakes.routing import Listener

WORKERS = (1, 2, 4)
CORES = 16
CONNECTIONS = 32
BURST, PER_S = 120, 2.0
"""Of the limited key: what it may send at once, and from then on."""
KEY, LIMITED = b"mdl_bench", b"mdl_limited"

BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    % len(proxies.ANSWER)
) + proxies.ANSWER.encode()


class Engine(asyncio.Protocol):
    """Answers at once; a request is one read."""

    def connection_made(self, transport: Any) -> None:
        """Store the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer."""
        self._transport.write(ANSWER)


class Client(asyncio.Protocol):
    """One connection of a client; one request at a time."""

    def connection_made(self, transport: Any) -> None:
        """Store the transport."""
        self._transport = transport

    async def send(self, key: bytes) -> int:
        """Send a request; return the answer's status."""
        self._answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._read = b""
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer "
        more = b"\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY)
        self._transport.write(head + key + more + BODY)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        """Take the answer, once it is complete."""
        self._read += data
        head, found, body = self._read.partition(b"\r\n\r\n")
        if found and len(body) >= int(head.lower().partition(b"content-length: ")[2].split()[0]):
            self._answer.set_result(int(head[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is awaited."""
        if not self._answer.done():
            self._answer.set_exception(ConnectionError("the gateway closed the connection"))


@dataclass
class Operations(proxies.NoOperations):
    """With two keys."""

    issued: dict[str, ApiKey] = field(default_factory=dict)

    async def keys(self) -> dict[str, ApiKey]:
        """Return them by the hash of their secret."""
        return self.issued


async def serve(engine: int, workers: int) -> None:
    """Run a gateway; say where, and at each line of standard input what it has counted."""
    sys.setswitchinterval(GIL_INTERVAL_S)
    clock, metrics, logged = SystemClock(), Metrics(), Counter[str]()
    board = Switchboard(
        traffic=TrafficBook(clock=clock),
        listener=Listener(),
        metrics=metrics,
        max_waiting_per_model=256,
        max_wait_s=300.0,
    )
    board.open(
        "m", Upstream(host="127.0.0.1", port=engine, served_name="m", apis=frozenset({"openai"}))
    )
    free = ApiKey(id="k1", name="free", created_at=0)
    limited = ApiKey(id="k2", name="limited", created_at=0, requests_per_minute=BURST)
    keys = {digest(KEY): free, digest(LIMITED): limited}

    def on_answered(entry: Any) -> None:
        board.traffic.on_answered("m", prompt_tokens=1, generated_tokens=entry.generated_tokens)
        logged["answered"] += 1
        logged["tokens"] += entry.generated_tokens

    gateway = Gateway(
        config=config.Gateway.model_validate({"port": 0, "workers": workers}),
        ingest=config.Ingest(),
        incoming=Path(tempfile.gettempdir()),
        switchboard=board,
        operations=Operations(issued=keys),  # type: ignore[arg-type]
        metrics=metrics,
        clock=clock,
        links={},
        on_answered=on_answered,
    )
    async with gateway:
        gc.collect()
        gc.freeze()
        said = {"port": gateway.url.rpartition(":")[2], "workers": [*gateway.workers.values()]}
        print(json.dumps(said), flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            seen = board.traffic.snapshot()["m"]
            counted = {
                "arrivals": sum(seen.intervals) + 1,
                "completed": seen.completed,
                "failed": seen.failed,
                "in-flight": seen.in_flight,
                "judged": board.answers("m").total,
                **logged,
            }
            print(json.dumps(counted), flush=True)


async def engine() -> None:
    """Run an engine; say where."""
    server = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", 0)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await asyncio.to_thread(sys.stdin.read)


@dataclass
class Running:
    """A process of this file."""

    process: subprocess.Popen[str]
    port: int
    pids: Sequence[int]

    def cpu_s(self) -> float:
        """Return what its processes have used."""
        return sum(proxies.cpu_seconds(pid) for pid in self.pids)

    def ask(self) -> dict[str, int]:
        """Return what it has counted; a batch of a worker may still be on its way."""
        assert self.process.stdin and self.process.stdout  # both are pipes
        time.sleep(0.5)
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return dict(json.loads(self.process.stdout.readline()))


@contextlib.contextmanager
def started(*words: str) -> Iterator[Running]:
    """Run this file with ``words`` within the context."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.gateway_workers", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout  # a pipe
        said = json.loads(process.stdout.readline())
        pids = [process.pid, *said.get("workers", [])]
        yield Running(process, int(said["port"]), pids)
    finally:
        process.kill()
        process.wait()


async def load(port: int, *, rate: float, seconds: float) -> int:
    """Send requests at ``rate`` over `CONNECTIONS`; return how many were answered."""
    loop = asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(Client, "127.0.0.1", port))[1] for _ in range(CONNECTIONS)
    ]
    began = loop.time()

    async def one(number: int, client: Client) -> int:
        answered = 0
        due = began + (number / rate if rate else 0.0)
        while max(due, loop.time()) < began + seconds:
            await asyncio.sleep(due - loop.time())
            if await client.send(KEY) != 200:
                raise SystemExit("a request failed")
            answered += 1
            due += CONNECTIONS / rate if rate else 0.0
        return answered

    done = await asyncio.gather(*(one(number, client) for number, client in enumerate(clients)))
    for client in clients:
        client._transport.close()
    return sum(done)


async def exceed(port: int) -> tuple[int, float]:
    """Send twice what the limited key may; return what was let in, and the seconds it took."""
    loop, began = asyncio.get_running_loop(), time.monotonic()

    async def one() -> int:
        client = (await loop.create_connection(Client, "127.0.0.1", port))[1]
        found = [await client.send(LIMITED) for _ in range(2 * BURST // CONNECTIONS + 1)]
        client._transport.close()
        return found.count(200)

    let_in = await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    return sum(let_in), time.monotonic() - began


def wrong(counted: Mapping[str, int], sent: int) -> dict[str, int]:
    """Return the counters that are not what was sent."""
    expected = {"failed": 0, "in-flight": 0, "tokens": 20 * sent}
    expected |= dict.fromkeys(("arrivals", "completed", "judged", "answered"), sent)
    return {name: counted[name] for name, right in expected.items() if counted[name] != right}


def main() -> None:
    """Run everything and print the results as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=400.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--engine", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.engine:
        return uvloop.run(engine())
    if given.serve:
        return uvloop.run(serve(*given.serve))
    spent: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    service: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    sent, errors, over = Counter[int](), 0, 0.0
    with contextlib.ExitStack() as stack:
        behind = stack.enter_context(started("--engine"))
        gateways = {
            workers: stack.enter_context(started("--serve", str(behind.port), str(workers)))
            for workers in WORKERS
        }
        for number in range(given.rounds + 1):
            for workers, gateway in gateways.items():
                before, alone = gateway.cpu_s(), proxies.cpu_seconds(gateway.pids[0])
                answered = uvloop.run(load(gateway.port, rate=given.rate, seconds=given.seconds))
                sent[workers] += answered
                time.sleep(0.2)  # what workers have counted arrives
                if number:  # the first one warms up
                    spent[workers].append((gateway.cpu_s() - before) / answered * 1e6)
                    own = proxies.cpu_seconds(gateway.pids[0]) - alone
                    service[workers].append(own / answered * 1e6)
        for workers, gateway in gateways.items():
            let_in, seconds = uvloop.run(exceed(gateway.port))
            sent[workers] += let_in
            over = max(over, let_in - BURST - PER_S * seconds)
            if found := wrong(counted := gateway.ask(), sent[workers]):
                print(f"{workers} workers: {sent[workers]} requests were counted as {found}")
            errors += len(found)
            if let_in < BURST:
                raise SystemExit(f"a key for {BURST} requests got {let_in}: {counted}")
    cpu = {workers: statistics.median(found) for workers, found in spent.items()}
    own = {workers: statistics.median(found) for workers, found in service.items()}
    print("| processes | CPU µs per request | × one | of it the service's |")
    print("| --- | --- | --- | --- |")
    for workers in WORKERS:
        ratio = cpu[workers] / cpu[1]
        print(f"| {workers} | {cpu[workers]:.0f} | {ratio:.2f} | {own[workers]:.0f} |")
    each, counting = cpu[4] - own[4], own[4]
    most = 1e6 / counting if counting else float("inf")
    print(
        f"\nOn {CORES} cores: a worker's core answers {1e6 / each:.0f} requests/s, "
        f"{CORES - 1} of them {(CORES - 1) * 1e6 / each:.0f}; the service's counts {most:.0f} of "
        "them, and bounds the sum."
    )
    print_goals(
        *(
            Goal(
                name=f"cpu-per-request/{workers}-workers",
                measured=cpu[workers] / cpu[1],
                relation="≤",
                required=1.1,
            )
            for workers in WORKERS[1:]
        ),
        Goal(name="wrong-counters", measured=errors, relation="≤", required=0),
        Goal(name="requests-over-a-key's-rate", measured=over, relation="≤", required=1),
    )


if __name__ == "__main__":
    main()
