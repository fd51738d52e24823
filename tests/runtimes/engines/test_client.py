"""The calls to engines."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator

import httpx
import pytest

from modelium.clock import SystemClock
from modelium.config import Vllm as VllmSection
from modelium.models import Upstream
from runtimes.engines.client import EngineClient
from runtimes.vllm.recipe import VllmRecipe


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
