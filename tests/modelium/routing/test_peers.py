"""Where requests for a model on another node go."""

from __future__ import annotations

import pytest

from modelium.models import Deployment, LoadSettings, Node, NodeReport, RuntimeName, Upstream
from modelium.routing.peers import upstream_of

ENGINE = Upstream(
    host="127.0.0.1",
    port=9000,
    socket="/run/engine.sock",
    prefix="/inner",
    served_name="m@2",
    apis=frozenset({"openai", "generic"}),
    paths=frozenset({"/v1/chat/completions"}),
    api_key="engine's",
    user=1000,
)


def deployed(upstream: Upstream | None = ENGINE) -> Deployment:
    return Deployment(
        model="m",
        version=2,
        runtime=RuntimeName.VLLM,
        devices=("b/gpu0",),
        settings=LoadSettings(),
        upstream=upstream,
        started_at=1.0,
    )


def at(address: str | None) -> Node:
    return Node(name="b", report=NodeReport(address=address))


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("https://b.example:8443", ("b.example", 8443, True, "")),
        ("https://b.example/modelium/", ("b.example", 443, True, "/modelium")),
        ("http://[fd00::2]:8000", ("fd00::2", 8000, False, "")),
        ("http://b", ("b", 80, False, "")),
    ],
)
def test_the_nodes_gateway_stands_for_its_engine(
    address: str, found: tuple[str, int, bool, str]
) -> None:
    there = upstream_of(deployed(), "m", at(address), "mdn_secret")
    assert there is not None
    assert (there.host, there.port, there.tls, there.prefix) == found
    assert (there.peer, there.served_name, there.api_key) == ("b", "m", "mdn_secret")
    assert (there.apis, there.paths) == (ENGINE.apis, ENGINE.paths)
    assert (there.socket, there.user) == ("", None)
    assert "mdn_secret" not in repr(there)


def test_nothing_is_forwarded_to_an_engine_that_is_not_up_or_a_node_without_an_address() -> None:
    assert upstream_of(deployed(None), "m", at("http://b"), "s") is None
    assert upstream_of(deployed(), "m", at(None), "s") is None
    assert upstream_of(deployed(), "m", at("ftp://b"), "s") is None
