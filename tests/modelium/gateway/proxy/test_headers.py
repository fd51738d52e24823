"""Headers, and engines that are gone or silent."""

from __future__ import annotations

import pytest

from modelium.errors import DeadlineExceeded
from modelium.gateway.proxy.upstream import UpstreamClient
from tests.fakes.upstream import Upstream
from tests.modelium.gateway.conftest import Setup


async def test_only_end_to_end_headers_and_the_engines_own_key_are_sent(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.open("m", engine.address("m", api_key="engine-key"))
    headers = {
        "authorization": "Bearer client-key",
        "cookie": "a=b",
        "api-key": "client-key",
        "x-api-key": "client-key",
        "connection": "keep-alive, x-hop",
        "x-hop": "1",
        "x-request-id": "r1",
        "te": "trailers",
    }
    answer = await setup.http.post("/v1/completions", json={"model": "m"}, headers=headers)
    sent = engine.seen[0].headers
    assert sent["authorization"] == "Bearer engine-key"
    assert sent["x-request-id"] == "r1"
    assert sent["host"] == f"127.0.0.1:{engine.port}"
    assert not {"cookie", "x-hop", "te", "api-key", "x-api-key"} & sent.keys()
    assert answer.headers["x-engine"] == "fake"
    assert "keep-alive" not in answer.headers


async def test_no_encoding_is_asked_for_that_the_client_did_not_offer(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.open("m", engine.address("m"))
    request = setup.http.build_request("POST", "/v1/completions", json={"model": "m"})
    del request.headers["accept-encoding"]
    await setup.http.send(request)
    assert engine.seen[0].headers["accept-encoding"] == "identity"
    assert "authorization" not in engine.seen[0].headers


async def test_engine_that_is_gone_is_a_503_and_is_reported(setup: Setup, engine: Upstream) -> None:
    setup.board.open("m", engine.address("m").model_copy(update={"port": 1}))
    answer = await setup.http.post("/v1/completions", json={"model": "m"})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["code"] == "engine-unreachable"
    assert setup.listener.unreached == ["m"]
    assert setup.board.traffic.snapshot()["m"].failed == 1


async def test_silent_engine_is_given_up(engine: Upstream) -> None:
    async with UpstreamClient(silence_timeout_s=0.05) as reached:
        with pytest.raises(DeadlineExceeded, match="did not answer within"):
            async with reached.send(
                engine.address("m"),
                method="POST",
                target="/x",
                headers=[(b"x-do", b"hold")],
                body=b"{}",
            ):
                raise AssertionError("it answered")
