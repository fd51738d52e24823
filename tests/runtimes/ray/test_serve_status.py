"""What Serve reports, as one node of a cluster reads it."""

from __future__ import annotations

from typing import Any

import pytest

from runtimes.ray import serve_status


def document(**proxies: str) -> dict[str, Any]:
    listed = [{"ip": ip.replace("_", "."), "status": status} for ip, status in proxies.items()]
    return {"applications": {}, "nodes": [], "proxies": listed}


@pytest.mark.parametrize(
    ("proxies", "healthy"),
    [
        ({"h": "HEALTHY"}, True),
        ({"h": "HEALTHY", "n": "HEALTHY"}, True),
        ({"h": "UNHEALTHY", "n": "HEALTHY"}, True),
        ({"h": "HEALTHY", "n": "UNHEALTHY"}, False),
        ({"h": "HEALTHY", "n": "STARTING"}, False),
        ({"h": "HEALTHY", "n": "DRAINING"}, True),
        ({"h": "UNHEALTHY"}, False),
        ({}, False),
    ],
)
def test_a_node_needs_its_own_proxy_once_it_has_one(proxies: dict[str, str], healthy: bool) -> None:
    assert serve_status.parse(document(**proxies), node_ip="n").proxy_healthy is healthy
