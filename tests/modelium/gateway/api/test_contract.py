"""The gateway against its own OpenAPI document: what is sent is made from it, and so are answers.

Schemathesis makes the requests, valid ones and others, always the same.
"""

from __future__ import annotations

import asyncio
import contextlib

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from modelium import config
from modelium.clock import SystemClock
from modelium.control.operations import Operations
from modelium.gateway import Gateway
from tests.modelium.conftest import World

pytestmark = pytest.mark.slow

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

EXAMPLES = 5
"""Requests of each operation."""

BOUNDS = hypothesis.settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)


@pytest.mark.unfinished  # requests are accepted, and nobody waits for what becomes of them
async def test_no_request_is_answered_with_what_is_not_documented(world: World) -> None:
    await world.load("tiny")
    operations = Operations(services=world.services)
    gateway = Gateway(
        config=config.Gateway(port=0),
        ingest=config.Ingest(),
        incoming=world.incoming,
        switchboard=world.services.switchboard,
        operations=operations,
        metrics=world.metrics,
        clock=SystemClock(),
        links={},
        shutdown_grace_s=1.0,
    )
    async with gateway, contextlib.aclosing(operations):
        assert await asyncio.to_thread(wrong, gateway.url) == []


def wrong(url: str) -> list[str]:
    """Return what is wrong with the answers of each operation."""
    schema = schemathesis.openapi.from_url(f"{url}/api/v1/openapi.json")
    found: list[str] = []
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 25
    for operation in operations:

        @BOUNDS
        @hypothesis.given(case=operation.as_strategy())
        def check(case: schemathesis.Case) -> None:
            if "wait" in (case.query or {}):
                case.query["wait"] = 0
            case.call_and_validate(base_url=url, checks=CHECKS)

        try:
            check()
        except (FailureGroup, Exception) as exc:
            found.append(f"{operation.label}: {exc}")
    return found
