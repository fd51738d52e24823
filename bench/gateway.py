"""Measures the latency that the gateway adds, compared with nginx and LiteLLM's proxy in one run.

Each row is the same chat request to the same nginx, which answers at once: directly, through
nginx as a proxy, through LiteLLM's proxy and through Modelium, each in a separate process and in
alternating rounds; the figures are medians over the rounds. Then Modelium is measured beside a
planner that re-plans 1,000 models, at the interval of the service's loop and without a pause.
Finally, streams are checked for lost and reordered events. The last lines are the goals.

    make bench-gateway [ARGS="--seconds 3 --rounds 3"]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import uvloop

from bench import proxies
from bench.goals import Goal, print_goals
from modelium.config import Metrics

CONNECTIONS = (1, 16, 64)
STREAMS, EVENTS = 64, 200
RHYTHM_S = Metrics().collection_interval_seconds
"""Interval of the service's loop, which makes at most one plan in each."""

WRK = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.body = '{"model":"m","messages":[{"role":"user","content":"hi"}]}'
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{"p50":%d,"p99":%d,"rps":%.0f,"errors":%d}\\n',
    latency:percentile(50), latency:percentile(99), summary.requests / summary.duration * 1e6,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Figures:
    """The results of a run of wrk; latencies in microseconds."""

    p50: float
    p99: float
    rps: float
    cpu: float = 0.0
    """CPU time of the proxy's process per request, in microseconds; 0 if it is not measured."""
    errors: int = 0


def wrk(port: int, connections: int, seconds: int, script: Path) -> Figures:
    """Run wrk; raises `SystemExit` if a request fails."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s"]
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    done = subprocess.run(
        [*command, "-s", str(script), url], capture_output=True, text=True, check=True
    )
    figures = Figures(**json.loads(done.stdout.strip().splitlines()[-1]))
    if figures.errors or not figures.rps:
        raise SystemExit(f"{figures.errors} of the requests to port {port} failed")
    return figures


def warm(port: int) -> None:
    """Send the first requests, which are slower than later ones: LiteLLM's first takes seconds."""
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
    for _ in range(20):
        request = urllib.request.Request(url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()


def in_turns(
    ports: Mapping[str, int],
    connections: int,
    given: argparse.Namespace,
    script: Path,
    pids: Mapping[str, int] | None = None,
) -> dict[str, Figures]:
    """Measure each port in each round; return medians. ``pids``: processes to measure CPU of."""
    runs: dict[str, list[Figures]] = {way: [] for way in ports}
    for _ in range(given.rounds):
        for way, port in ports.items():
            pid = (pids or {}).get(way)
            before = proxies.cpu_seconds(pid) if pid else 0.0
            seen = wrk(port, connections, given.seconds, script)
            spent = proxies.cpu_seconds(pid) - before if pid else 0.0
            runs[way].append(replace(seen, cpu=spent * 1e6 / (seen.rps * given.seconds)))
    return {
        way: Figures(
            *(statistics.median(getattr(r, f) for r in seen) for f in ("p50", "p99", "rps", "cpu"))
        )
        for way, seen in runs.items()
    }


def table(connections: int, seen: Mapping[str, Figures]) -> list[str]:
    """Return the rows of the Markdown table for one number of connections."""
    direct = seen["direct"].p50
    added = {way: figures.p50 - direct for way, figures in seen.items()}
    rows = []
    for way, figures in seen.items():
        row = f"| {connections} | {way} | {figures.p50:.0f} | {figures.p99:.0f} |"
        row += f" {added[way]:.0f} |" if way != "direct" else " |"
        if way == "Modelium":
            # On a busy machine, nginx may seem to reduce the latency: there is no ratio then.
            row += f" {added[way] / added['nginx']:.1f} |" if added["nginx"] > 0 else " |"
            row += (
                f" 1/{added['LiteLLM'] / max(1.0, added[way]):.0f} |"
                if "LiteLLM" in added
                else " |"
            )
        else:
            row += " | |"
        rows.append(f"{row} {figures.rps:.0f} | {f'{figures.cpu:.0f}' if figures.cpu else ''} |")
    return rows


def goals(compared: Sequence[Mapping[str, Figures]]) -> Iterator[Goal]:
    """Yield the limits for the added p50, each for the worst number of connections."""
    for way, limit in (("nginx", 8.0), ("LiteLLM", 1 / 15)):
        ratios = [
            (seen["Modelium"].p50 - seen["direct"].p50) / (seen[way].p50 - seen["direct"].p50)
            for seen in compared
            if way in seen and seen[way].p50 > seen["direct"].p50
        ]
        if any(way in seen for seen in compared):
            worst = max(ratios, default=math.inf)
            name = f"added-p50/{way.lower()}"
            yield Goal(name=name, measured=worst, relation="≤", required=limit)


@contextlib.asynccontextmanager
async def streaming_engine(port: int) -> AsyncIterator[None]:
    """Run an engine that streams numbered events."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        )
        for number in range(EVENTS):
            event = f"data: {number}\n\n".encode()
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
            await asyncio.sleep(0.005)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", port):
        yield


async def streams(engine: int, ports: Mapping[str, int]) -> list[str]:
    """Read many streams at once; raises `SystemExit` if an event is lost or out of order."""

    async def read(session: aiohttp.ClientSession, port: int) -> None:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        async with session.post(url, json={"model": "m", "stream": True}) as response:
            events = (await response.text()).split("\n\n")[:-1]
        if events != [f"data: {number}" for number in range(EVENTS)]:
            raise SystemExit(f"{len(events)} of {EVENTS} events of a stream arrived, or reordered")

    durations = []
    connector = aiohttp.TCPConnector(limit=0)
    async with streaming_engine(engine), aiohttp.ClientSession(connector=connector) as session:
        for way, port in ports.items():
            began = time.perf_counter()
            await asyncio.gather(*(read(session, port) for _ in range(STREAMS)))
            durations.append(f"{way} {time.perf_counter() - began:.2f} s")
    return durations


def print_figures(seen: Mapping[str, Figures]) -> None:
    """Print a line for each way."""
    for way, figures in seen.items():
        print(f"\nModelium {way}: p50 {figures.p50:.0f} µs, p99 {figures.p99:.0f} µs", flush=True)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3, help="duration of each run of wrk")
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds, of which the median is reported"
    )
    parser.add_argument("--without-litellm", action="store_true")
    parser.add_argument("--serve", type=int, metavar="ENGINE", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--planning", type=float, metavar="PAUSE", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run everything and print the results as Markdown."""
    given = arguments()
    if given.serve:
        uvloop.run(proxies.serve(given.serve, given.port, planning=given.planning))
        return
    for tool in ("nginx", "wrk"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is not installed: apt-get install nginx-light wrk")
    names = ("direct", "nginx", "LiteLLM", "Modelium")
    *found, at_times, always, slow_engine, slow_gateway = proxies.free_ports(8)
    ports = dict(zip(names, found, strict=True))
    engine = ports["direct"]
    if given.without_litellm:
        del ports["LiteLLM"]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder, script = Path(name), Path(name) / "wrk.lua"
        script.write_text(WRK)
        stack.enter_context(proxies.engine(folder, engine))
        stack.enter_context(proxies.nginx(folder, engine, ports["nginx"]))
        pids = {"Modelium": stack.enter_context(proxies.modelium(engine, ports["Modelium"]))}
        if "LiteLLM" in ports:
            start = proxies.litellm(folder, engine, ports["LiteLLM"])
            pids["LiteLLM"] = stack.enter_context(start)
        for port in ports.values():
            proxies.reachable(port)
            warm(port)
        print(
            "| connections | path | p50 µs | p99 µs | added p50 µs | × nginx | of LiteLLM | requests/s | its CPU µs |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
        compared = []
        for connections in CONNECTIONS:
            seen = in_turns(ports, connections, given, script, pids)
            compared.append(seen)
            print(*table(connections, seen), sep="\n", flush=True)
        for way, pid in pids.items():
            print(f"\n{way}: {proxies.resident_mib(pid):.0f} MiB resident")
        # Long enough for two plans of the planner that pauses between them.
        longer = argparse.Namespace(seconds=int(2 * RHYTHM_S), rounds=given.rounds)
        own = ports["Modelium"]
        with proxies.modelium(engine, at_times, planning=RHYTHM_S):
            proxies.reachable(at_times)
            ways = {"alone": own, f"that re-plans every {RHYTHM_S:.0f} s": at_times}
            print_figures(in_turns(ways, 1, longer, script))
        with proxies.modelium(engine, always, planning=0.0):
            proxies.reachable(always)
            # The planner uses one of the machine's cores in both.
            ways = {"that re-plans without a pause": always, "beside one that does": own}
            print_figures(in_turns(ways, 1, longer, script))
    with proxies.modelium(slow_engine, slow_gateway):
        proxies.reachable(slow_gateway)
        ways = {"direct": slow_engine, "Modelium": slow_gateway}
        durations = asyncio.run(streams(slow_engine, ways))
    print(f"\n{STREAMS} streams × {EVENTS} events, complete and in order: {', '.join(durations)}")
    print_goals(
        *goals(compared),
        Goal(name="lost-or-reordered-streams", measured=0, relation="≤", required=0),
    )


if __name__ == "__main__":
    main()
