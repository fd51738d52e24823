"""Requests for models that are not loaded."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import openai
import pytest

from modelium.errors import LoadFailed
from tests.fakes.upstream import Upstream
from tests.modelium.gateway.conftest import Setup, Start, until
from tests.modelium.gateway.proxy.conftest import CHAT, pending

pytestmark = pytest.mark.slow


async def test_request_waits_for_its_load_and_is_then_answered(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.know(["m"])
    waiting = asyncio.create_task(setup.http.post("/v1/chat/completions", json=CHAT))
    await until(lambda: pending(setup) == 1)
    assert setup.listener.demanded[0] == "m"
    setup.board.open("m", engine.address("m"))
    assert (await waiting).status_code == 200
    text = setup.metrics.render().decode()
    assert 'modelium_requests_held_total{model="m"} 1.0' in text
    assert 'modelium_cold_starts_total{model="m"} 1.0' in text


async def test_past_the_longest_wait_it_is_a_503_with_reason_and_retry_after(
    start: Start,
) -> None:
    async with start(max_wait_s=0.2) as setup:
        setup.board.know(["m"])
        setup.board.expect("m", ready_in_s=41.5, reason="queued behind big-model")
        answer = await setup.http.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "42"
        assert "queued behind big-model" in answer.json()["error"]["message"]
        kserve = await setup.http.post("/v2/models/m/infer", content=b"{}")
        assert kserve.status_code == 503
        assert "queued behind big-model" in kserve.json()["error"]
        refused = 'modelium_requests_refused_total{model="m",reason="unavailable"} 2.0'
        assert refused in setup.metrics.render().decode()


async def test_over_the_bound_of_waiters_it_is_a_503_at_once(start: Start) -> None:
    async with start(max_waiting=1) as setup:
        setup.board.know(["m"])
        first = asyncio.create_task(setup.http.post("/v1/chat/completions", json=CHAT))
        await until(lambda: pending(setup) == 1)
        second = await setup.http.post("/v1/chat/completions", json=CHAT)
        assert second.status_code == 503
        assert "too many requests already wait" in second.json()["error"]["message"]
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first


async def test_failed_load_is_told_to_those_who_wait(setup: Setup) -> None:
    setup.board.know(["m"])
    waiting = asyncio.create_task(setup.http.post("/v1/chat/completions", json=CHAT))
    await until(lambda: pending(setup) == 1)
    setup.board.refuse(
        "m", LoadFailed("out of memory on GPU 0 (log: /state/vllm/m.log)"), retry_after_s=60
    )
    answer = await waiting
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
    told = answer.json()["error"]["message"]
    assert told.endswith("out of memory on GPU 0"), "where the log is, is the operator's to see"


async def test_openai_client_reads_the_reason(start: Start) -> None:
    async with start(max_wait_s=0.05) as setup:
        setup.board.know(["m"])
        url = f"{setup.gateway.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as ai:
            with pytest.raises(openai.InternalServerError, match="was not ready within"):
                await ai.chat.completions.create(model="m", messages=[])


async def test_connection_serves_further_requests_after_a_held_one(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.open("m", engine.address("m"))
    for _ in range(5):
        assert (await setup.http.post("/v1/chat/completions", json=CHAT)).status_code == 200
    assert setup.board.traffic.snapshot()["m"].completed == 5


async def test_unload_waits_for_the_request_in_flight_and_holds_the_next(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.open("m", engine.address("m"))
    held = asyncio.create_task(
        setup.http.post("/v1/chat/completions", json=CHAT, headers={"x-do": "hold"})
    )
    await asyncio.wait_for(engine.arrived.wait(), 20)
    setup.board.close("m")
    assert not await setup.board.drained("m", timeout_s=0.05)
    late = asyncio.create_task(setup.http.post("/v1/chat/completions", json=CHAT))
    await until(lambda: pending(setup) == 1)
    assert len(engine.seen) == 1
    engine.release.set()
    assert await setup.board.drained("m", timeout_s=20)
    assert (await held).status_code == 200
    setup.board.open("m", engine.address("m"))
    assert (await late).status_code == 200


async def test_swapping_under_load_loses_no_request(setup: Setup, engine: Upstream) -> None:
    """Two models take turns in one slot, as fast as they drain, under concurrent requests."""
    models = ("a", "b")
    setup.board.know(models)
    wanted: asyncio.Queue[str] = asyncio.Queue()
    setup.listener.demand = wanted.put_nowait
    loaded: str | None = None
    both: list[bool] = []

    async def swap() -> None:
        nonlocal loaded
        while True:
            model = await wanted.get()
            if model == loaded:
                continue
            if loaded is not None:
                setup.board.close(loaded)
                assert await setup.board.drained(loaded, timeout_s=20)
                both.append(setup.board.traffic.in_flight(loaded) > 0)
            loaded = model
            setup.board.open(model, engine.address(model))

    swapping = asyncio.create_task(swap())
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=setup.gateway.url, timeout=60, limits=limits) as http:
        answers = await asyncio.gather(
            *(
                http.post("/v1/chat/completions", json={**CHAT, "model": models[i % 2]})
                for i in range(200)
            )
        )
    swapping.cancel()
    assert [a.status_code for a in answers] == [200] * 200
    assert [a.json()["model"] for a in answers] == [models[i % 2] for i in range(200)]
    assert both
    assert not any(both)


async def test_waiters_of_all_models_are_bounded_together(start: Start) -> None:
    async with start(max_waiting_in_all=1) as setup:
        setup.board.know(["m", "n"])
        first = asyncio.create_task(setup.http.post("/v1/chat/completions", json=CHAT))
        await until(lambda: pending(setup) == 1)
        second = await setup.http.post("/v1/chat/completions", json={**CHAT, "model": "n"})
        assert second.status_code == 503
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
