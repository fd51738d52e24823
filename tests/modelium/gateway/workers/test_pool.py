"""Two worker processes of one gateway, over real sockets."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelium import config
from modelium.gateway.http_server import listen
from modelium.gateway.workers.pool import COMMAND
from modelium.models.api_keys import KeyTerms
from tests.fakes.upstream import Upstream
from tests.modelium.gateway.conftest import Setup, Start, until
from tests.modelium.gateway.proxy.conftest import CHAT

TWO = {"workers": 2}


async def chat(setup: Setup, model: str = "m", **headers: str) -> httpx.Response:
    """Send a request on a connection of its own, which the kernel gives to either worker."""
    async with httpx.AsyncClient(timeout=30) as http:
        url = f"{setup.gateway.url}/v1/chat/completions"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await http.post(url, json={**CHAT, "model": model}, headers=named)


async def many(setup: Setup, count: int, model: str = "m", **headers: str) -> list[int]:
    answers = await asyncio.gather(*(chat(setup, model, **headers) for _ in range(count)))
    return sorted(answer.status_code for answer in answers)


def traffic(setup: Setup, model: str = "m") -> Any:
    return setup.board.traffic.snapshot()[model]


def count(setup: Setup, series: str) -> float:
    lines = setup.metrics.render().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(series))


async def test_requests_are_counted_once_whichever_worker_answers(
    start: Start, engine: Upstream
) -> None:
    logged: list[Any] = []
    async with start(limits=TWO, on_answered=logged.append) as setup:
        setup.board.know(["m", "cold"])
        setup.board.open("m", engine.address("m"))
        assert len(set(setup.gateway.workers.values()) - {os.getpid()}) == 2
        assert await many(setup, 16) == [200] * 16
        assert await many(setup, 4, x_do="error") == [500] * 4
        await until(lambda: traffic(setup).completed + traffic(setup).failed == 20)
        seen = traffic(setup)
        assert (seen.completed, seen.failed, seen.in_flight, seen.pending) == (16, 4, 0, 0)
        assert sum(seen.intervals) == 19  # 20 arrivals
        assert len(logged) == 16
        answers = setup.board.answers("m")
        assert (answers.total, answers.failed) == (20, 4)

        # Demand: all wait, at either worker, and the model opens for all at once.
        waiting = asyncio.create_task(many(setup, 8, "cold"))
        await until(lambda: setup.board.traffic.pending("cold") == 8)
        assert set(setup.listener.demanded) == {"cold"}
        setup.board.open("cold", engine.address("cold"))
        assert await waiting == [200] * 8
        await until(lambda: traffic(setup, "cold").completed == 8)
        assert traffic(setup, "cold").pending == 0
        assert count(setup, "modelium_cold_starts_total") == 1
        assert count(setup, "modelium_requests_held_total") == 8

        # A reload.
        setup.gateway.apply(config.Config.model_validate({"gateway": {"aliases": {"other": "m"}}}))
        await setup.board.drained("m", timeout_s=1)  # every worker has heard of it
        assert await many(setup, 8, "other") == [200] * 8

        # What is refused, and what is not for workers.
        assert (await chat(setup, "none")).status_code == 404
        assert (await setup.http.get("/v2/health/ready")).status_code == 200
        assert (await setup.http.get("/v2/models/m/ready")).status_code == 200
        assert (await setup.http.get("/metrics")).text.startswith("# HELP")
        assert "Modelium" in (await setup.http.get("/")).text
        assert (await setup.http.get("/api/v1/none")).json()["error"]["reason"] == "not-found"
        assert (await setup.http.post("/api/v1/plan", content=b"x" * 2**21)).status_code == 413


async def test_an_unload_waits_for_what_is_in_flight_at_any_worker(
    start: Start, engine: Upstream
) -> None:
    async with start(limits=TWO) as setup:
        setup.board.know(["m"])
        setup.board.open("m", engine.address("m"))
        held = asyncio.create_task(many(setup, 6, x_do="hold"))
        await until(lambda: len(engine.seen) == 6)
        setup.board.close("m")
        assert not await setup.board.drained("m", timeout_s=0.01)
        later = asyncio.create_task(many(setup, 6))
        await until(lambda: setup.board.traffic.pending("m") == 6)
        draining = asyncio.create_task(setup.board.drained("m", timeout_s=20))
        engine.release.set()
        assert await held == [200] * 6
        assert await draining
        assert len(engine.seen) == 6
        setup.board.open("m", engine.address("m"))
        assert await later == [200] * 6
        # A switch: those in flight end where they are, new ones go on elsewhere.
        engine.release.clear()
        old = asyncio.create_task(many(setup, 4, x_do="hold"))
        await until(lambda: len(engine.seen) == 16)
        setup.board.switch("m", engine.address("twin"), version=2, aside="aside")
        assert await many(setup, 4) == [200] * 4
        assert [seen.json["model"] for seen in engine.seen[16:]] == ["twin"] * 4
        assert not await setup.board.drained("aside", timeout_s=0.01)
        engine.release.set()
        assert await setup.board.drained("aside", timeout_s=20)
        assert await old == [200] * 4


async def test_a_worker_that_is_killed_loses_its_connections_and_nothing_else(
    start: Start, engine: Upstream
) -> None:
    async with start(limits=TWO) as setup:
        setup.board.know(["m", "cold"])
        setup.board.open("m", engine.address("m"))
        secret = (await setup.operations.issue_key(KeyTerms(name="k", max_concurrent=50))).secret
        await setup.gateway._keys.refresh()
        tasks = [
            asyncio.create_task(chat(setup, x_do="hold", authorization=f"Bearer {secret}"))
            for _ in range(12)
        ]
        tasks += [asyncio.create_task(chat(setup, "cold")) for _ in range(12)]
        board = setup.board
        await until(lambda: len(engine.seen) == 12 and board.traffic.pending("cold") == 12)
        await until(lambda: board.traffic.in_flight("m") == 12)
        (first, pid), (second, other) = setup.gateway.workers.items()
        os.kill(pid, signal.SIGKILL)
        await until(lambda: setup.gateway.workers.get(first, pid) != pid)
        assert setup.gateway.workers[second] == other
        await until(lambda: sum(task.done() for task in tasks) > 0)
        lost = [task for task in tasks if task.done()]
        assert all(
            isinstance(task.exception(), httpx.RemoteProtocolError | httpx.ReadError)
            for task in lost
        )
        in_flight = sum(not task.done() for task in tasks[:12])
        # What the service counts is what is left; the rest has failed.
        assert board.traffic.in_flight("m") == in_flight
        assert board.traffic.pending("cold") == sum(not task.done() for task in tasks[12:])
        assert traffic(setup).failed == 12 - in_flight
        assert setup.gateway._keys.find(secret.encode())._concurrent == in_flight  # type: ignore[union-attr]
        assert count(setup, 'modelium_task_failures_total{task="gateway worker"}') == 1
        engine.release.set()
        board.open("cold", engine.address("cold"))
        kept = [task for task in tasks if task not in lost]
        assert {(await task).status_code for task in kept} == {200}
        # The new one has the whole table.
        assert await many(setup, 12) == [200] * 12
        assert await many(setup, 12, "cold") == [200] * 12


async def test_keys_rates_and_places_hold_over_all_workers(start: Start, engine: Upstream) -> None:
    async with start(limits=TWO, token="t") as setup:
        setup.board.know(["m"])
        setup.board.open("m", engine.address("m"))
        keys = setup.operations
        rated = (await keys.issue_key(KeyTerms(name="r", requests_per_minute=2))).secret
        placed = (await keys.issue_key(KeyTerms(name="p", max_concurrent=3))).secret
        assert await many(setup, 8, authorization=f"Bearer {rated}") == [401] * 8
        await setup.gateway._keys.refresh()
        assert await many(setup, 11, authorization=f"Bearer {rated}") == [200] * 2 + [429] * 9
        refused = await chat(setup, authorization=f"Bearer {rated}")
        assert "2 requests per minute" in refused.text and refused.headers["retry-after"]
        held = asyncio.create_task(many(setup, 8, x_do="hold", authorization=f"Bearer {placed}"))
        await until(lambda: count(setup, "modelium_requests_refused_total") == 15)
        engine.release.set()
        assert await held == [200] * 3 + [429] * 5
        for _ in range(6):  # one after the other, on a new connection each
            assert (await chat(setup, authorization=f"Bearer {placed}")).status_code == 200
        assert (await chat(setup, authorization="Bearer t")).status_code == 200
        # Revoked: at once, at all workers.
        await keys.revoke_key("k2")
        await setup.gateway._keys.refresh()
        assert await many(setup, 8, authorization=f"Bearer {placed}") == [401] * 8
        answer = await setup.http.get("/v1/models")
        assert answer.status_code == 401  # the service's own check of what workers pass on


async def test_a_worker_ends_with_its_service() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, listen("127.0.0.1", 0) as held:
        descriptors = (theirs.fileno(), held.fileno())
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *map(str, descriptors), pass_fds=descriptors, stderr=subprocess.PIPE
        )
        theirs.close()
        ours.close()
        async with asyncio.timeout(60):
            _, said = await process.communicate()
    assert b"the service has ended" in said


async def test_leaving_finishes_what_is_in_flight_and_leaves_no_process(
    start: Start, engine: Upstream
) -> None:
    async with start(limits=TWO, shutdown_grace_s=20) as setup:
        setup.board.know(["m", "cold"])
        setup.board.open("m", engine.address("m"))
        held = asyncio.create_task(many(setup, 6, x_do="hold"))
        waiting = asyncio.create_task(many(setup, 6, "cold"))
        await until(lambda: len(engine.seen) == 6 and setup.board.traffic.pending("cold") == 6)
        pids = list(setup.gateway.workers.values())
        leaving = asyncio.create_task(setup.gateway.__aexit__(None, None, None))
        assert await waiting == [503] * 6
        engine.release.set()
        assert await held == [200] * 6
        await leaving
        assert traffic(setup).completed == 6
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)  # noqa: ASYNC240
        with pytest.raises(httpx.ConnectError):
            await chat(setup)
