"""The middleware of vLLM's server, against every kind of request."""

from __future__ import annotations

from typing import Any

import pytest

from runtimes.vllm.access.modelium_access import RequireKey


async def answer(
    monkeypatch: pytest.MonkeyPatch, path: str, *headers: bytes, kind: str = "http"
) -> list[dict[str, Any]]:
    """Return what is sent for a request; what reaches the server is ``passed``."""
    sent: list[dict[str, Any]] = []

    async def server(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "passed"})

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    monkeypatch.setenv("VLLM_API_KEY", "k")
    pairs = [(b"authorization", value) for value in headers]
    await RequireKey(server)({"type": kind, "path": path, "headers": pairs}, receive, send)
    return sent


@pytest.mark.parametrize(
    "path", ["/v1/models", "/tokenize", "/collective_rpc", "/sleep", "/metrics", "/health/"]
)
async def test_without_the_key_only_health_answers(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    for headers in ([], [b"Bearer x"], [b"k"], [b"Bearer k", b"Bearer k"], [b"Bearer \xff"]):
        assert (await answer(monkeypatch, path, *headers))[0]["status"] == 401
    assert await answer(monkeypatch, path, b"Bearer k") == [{"type": "passed"}]


async def test_health_websockets_and_the_lifespan(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = [{"type": "passed"}]
    assert await answer(monkeypatch, "/health") == passed
    assert await answer(monkeypatch, "", kind="lifespan") == passed
    (closed,) = await answer(monkeypatch, "/v1/realtime", kind="websocket")
    assert closed["type"] == "websocket.close"


def test_without_a_key_the_server_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    with pytest.raises(KeyError):
        RequireKey(lambda *_: None)  # type: ignore[arg-type,return-value]
