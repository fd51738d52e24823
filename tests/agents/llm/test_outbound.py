"""Where requests to the LLM may not go."""

from __future__ import annotations

import socket

import httpx
import pytest

from agents.llm.endpoint import Endpoint, EndpointError
from agents.llm.outbound import refuse_metadata


async def test_a_name_that_resolves_to_a_metadata_service_is_refused_at_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def resolved(host: str, *_: object, **__: object) -> list[object]:
        address = "169.254.169.254" if host == "rebound.example" else "10.0.0.7"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    bad = httpx.Request("POST", "http://rebound.example/v1/chat/completions")
    with pytest.raises(httpx.ConnectError, match="metadata"):
        await refuse_metadata(bad, allowed=frozenset())
    await refuse_metadata(bad, allowed=frozenset({"rebound.example"}))
    await refuse_metadata(httpx.Request("POST", "http://llm.example/v1"), allowed=frozenset())


async def test_an_endpoint_sends_nothing_to_a_metadata_service() -> None:
    endpoint = Endpoint(base_url="http://169.254.169.254:9/v1", model="m", api_key="k")
    with pytest.raises(EndpointError):
        await endpoint.capabilities(now=0.0)
