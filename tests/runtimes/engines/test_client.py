"""The calls to engines."""

from __future__ import annotations

import http.server
import os
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest

from modelium.clock import SystemClock
from modelium.config import Vllm as VllmSection
from modelium.models import Upstream
from modelium.ports import EngineStats
from runtimes.engines.client import EngineClient
from runtimes.vllm.recipe import VllmRecipe
from tests.runtimes.clock import FakeClock
from tests.runtimes.engines.api import NOTHING, Answer, Api, Recipe, Seen


@pytest.fixture
def squatter() -> Iterator[tuple[int, list[str]]]:
    """The port of a program that listens where an engine did, and the keys that it was sent."""
    keys: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever).start()
    yield server.server_address[1], keys
    server.shutdown()
    server.server_close()


async def test_the_key_goes_to_programs_of_this_user_alone(
    squatter: tuple[int, list[str]],
) -> None:
    port, keys = squatter
    recipe = VllmRecipe(config=VllmSection(enabled=True), executable="vllm")
    client = EngineClient(recipe=recipe, clock=SystemClock())

    def at(user: int) -> Upstream:
        return Upstream(
            host="127.0.0.1", port=port, served_name="m", apis=frozenset(), api_key="k", user=user
        )

    another = at(os.getuid() + 1)
    assert await client.served_names(another) is None
    assert not await client.is_sleeping(another)
    with pytest.raises(httpx.ConnectError):
        await client.stats(another)
    with pytest.raises(httpx.ConnectError):
        await client.post(another, "/v1/completions", timeout_s=5)
    assert keys == []
    await client.stats(at(os.getuid()))
    assert keys == ["Bearer k"]
    await client.close()


async def test_an_engine_is_healthy_where_its_own_process_answers() -> None:
    client = EngineClient(recipe=Recipe(), clock=FakeClock())
    own = [2**22 + 1, os.getpid()]
    async with Api(health=[(200, {}), (503, {}), (204, {}), NOTHING]) as api:
        upstream = api.upstream()
        assert await client.health_problem(upstream, [os.getppid()]) == (
            f"none of its processes listens on port {api.port}"
        )
        assert api.seen == []
        found = [await client.health_problem(upstream, own) for _ in range(4)]
    assert found == [
        "",
        "/health answers with status 503",
        "/health answers with status 204",
        "/health does not answer: RemoteProtocolError",
    ]
    assert api.seen[0] == Seen(method="GET", target="/health", authorization=None, body=None)
    await client.close()


async def test_a_call_takes_no_longer_than_it_may() -> None:
    client = EngineClient(recipe=Recipe(), clock=FakeClock(), timeout_s=0.05)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        silent = Api()
        silent.port = deaf.getsockname()[1]
        upstream = silent.upstream()
        assert await client.health_problem(upstream, [os.getpid()]) == (
            "/health does not answer: ReadTimeout"
        )
        assert await client.served_names(upstream) is None
        patient = EngineClient(recipe=Recipe(), clock=FakeClock(), timeout_s=60)
        with pytest.raises(httpx.ReadTimeout):
            await patient.post(upstream, "/x", timeout_s=0.05)
    await client.close()
    await patient.close()


NAMES: list[tuple[Answer, list[str] | None]] = [
    ((200, {"data": [{"id": "m"}, {"id": 7}]}), ["m", "7"]),
    ((200, {"data": []}), []),
    ((401, {"data": [{"id": "m"}]}), None),
    ((200, "no JSON"), None),
    ((200, {"data": [{}]}), None),
    ((200, {"data": None}), None),
    ((200, []), None),
    (NOTHING, None),
]


async def test_the_served_names_are_those_of_an_engine_that_answers() -> None:
    client = EngineClient(recipe=Recipe(), clock=FakeClock())
    async with Api(v1__models=[answer for answer, _ in NAMES]) as api:
        for answer, names in NAMES:
            assert await client.served_names(api.upstream()) == names, answer
    asked = Seen(method="GET", target="/v1/models", authorization="Bearer k3y", body=None)
    assert api.seen == [asked] * len(NAMES)
    await client.close()


SLEEPING: list[tuple[Answer, bool]] = [
    ((200, {"is_sleeping": True}), True),
    ((200, {"is_sleeping": False}), False),
    ((500, {"is_sleeping": True}), False),
    ((200, {}), False),
    ((200, "no JSON"), False),
    ((200, []), False),
    (NOTHING, False),
]


async def test_an_engine_sleeps_where_it_says_so() -> None:
    client = EngineClient(recipe=Recipe(), clock=FakeClock())
    async with Api(is_sleeping=[answer for answer, _ in SLEEPING]) as api:
        for answer, sleeps in SLEEPING:
            assert await client.is_sleeping(api.upstream()) is sleeps, answer
    asked = Seen(method="GET", target="/is_sleeping", authorization="Bearer k3y", body=None)
    assert api.seen == [asked] * len(SLEEPING)
    await client.close()


async def test_counters_are_read_by_the_recipe() -> None:
    client = EngineClient(recipe=Recipe(), clock=FakeClock())
    async with Api(metrics=[(200, {"running": 3, "completed": 7}), (500, {})]) as api:
        assert await client.stats(api.upstream()) == EngineStats(running=3, completed=7)
        with pytest.raises(httpx.HTTPStatusError):
            await client.stats(api.upstream())
        assert [seen.authorization for seen in api.seen] == ["Bearer k3y"] * 2
    await client.close()


BUSY, QUEUED, IDLE = (200, {"running": 1}), (200, {"waiting": 2}), (200, {"completed": 9})


@pytest.mark.parametrize(
    ("readings", "within_s", "idle", "waited_s"),
    [
        ([IDLE], 30, True, 0.25),
        ([BUSY, QUEUED, IDLE], 30, True, 0.75),
        ([IDLE, BUSY, IDLE, QUEUED, IDLE], 30, True, 1.25),
        ([IDLE], 0.25, True, 0.25),
        ([IDLE], 0.2, True, 0.25),
        ([IDLE], 0, False, 0),
        ([BUSY], 0.5, False, 0.5),
        ([BUSY, BUSY, IDLE], 0.5, False, 0.5),
        ([QUEUED], 0.5, False, 0.5),
        ([BUSY, NOTHING], 30, False, 0.25),
        ([(500, "")], 30, False, 0),
    ],
)
async def test_an_engine_is_idle_after_two_readings_without_a_request(
    readings: list[Answer], within_s: float, waited_s: float, *, idle: bool
) -> None:
    clock = FakeClock()
    client = EngineClient(recipe=Recipe(), clock=clock)
    async with Api(metrics=readings) as api:
        assert await client.wait_until_idle(api.upstream(), within_s) is idle
    assert clock.now - 1000 == waited_s
    await client.close()


async def test_a_post_carries_body_and_key_and_its_answer_is_returned_whatever_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    client = EngineClient(recipe=Recipe(), clock=FakeClock())
    async with Api(wake_up=(500, "no")) as api:
        upstream = api.upstream(host="localhost")
        answer = await client.post(upstream, "/wake_up?a=1", body={"x": [1]}, timeout_s=60)
        assert (answer.status_code, answer.text) == (500, "no")
        assert (await client.post(upstream, "/none", timeout_s=60)).status_code == 404
    assert api.seen == [
        Seen(method="POST", target="/wake_up?a=1", authorization="Bearer k3y", body={"x": [1]}),
        Seen(method="POST", target="/none", authorization="Bearer k3y", body=None),
    ]
    await client.close()


async def test_the_key_goes_to_a_server_of_which_no_user_is_known() -> None:
    client = EngineClient(recipe=Recipe(), clock=FakeClock())
    async with Api(metrics=IDLE) as api:
        await client.stats(api.upstream(user=None))
        assert [seen.authorization for seen in api.seen] == ["Bearer k3y"]
        with pytest.raises(httpx.ConnectError) as failure:
            await client.stats(api.upstream(user=os.getuid() + 1))
    assert str(failure.value) == f"no program of this user listens on port {api.port}"
    with pytest.raises(httpx.ConnectError):
        await client.stats(api.upstream())
    await client.close()
    with pytest.raises(RuntimeError, match="client has been closed"):
        await client.stats(api.upstream(user=None))
