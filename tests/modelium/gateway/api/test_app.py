"""Model lists, readiness, metrics, limits and errors."""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai
import pytest

from modelium.errors import (
    DeadlineExceeded,
    InputError,
    LoadFailed,
    ModeliumError,
    NeedsApproval,
    StalePlan,
    Unavailable,
    Unsupported,
)
from modelium.models import (
    Violation,
)
from modelium.policy import PlanRejected
from tests.modelium.gateway.api.fleets import fleet
from tests.modelium.gateway.conftest import Setup

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (InputError("x"), 400, "bad-input"),
        (NeedsApproval("x"), 403, "needs-approval"),
        (
            PlanRejected([Violation(rule="pinned", subject="m", message="x is pinned")]),
            409,
            "policy",
        ),
        (Unavailable("x", retry_after_s=7.2), 503, "unavailable"),
        (StalePlan("x"), 503, "stale-plan"),
        (DeadlineExceeded("x"), 504, "deadline-exceeded"),
        (Unsupported("x"), 422, "unsupported"),
        (LoadFailed("x"), 500, "unknown"),
    ],
)
async def test_errors_have_status_reason_and_message(
    setup: Setup, error: ModeliumError, status: int, reason: str
) -> None:
    setup.operations.failure = error
    answer = await setup.http.post("/api/v1/models/m/load")
    assert answer.status_code == status
    assert answer.json()["error"]["reason"] == reason
    assert "x" in answer.json()["error"]["message"]
    retry = {"unavailable": "8", "stale-plan": "5", "deadline-exceeded": "5"}.get(reason)
    assert answer.headers.get("retry-after") == retry


@pytest.mark.parametrize("chunked", [False, True])
async def test_oversized_admin_bodies_are_refused(setup: Setup, chunked: bool) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100_000

    content = parts() if chunked else b" " * 2_000_000
    answer = await setup.http.post("/api/v1/plan", content=content)
    assert answer.status_code == 413
    assert answer.json()["error"]["message"]


async def test_schema_describes_the_admin_api(setup: Setup) -> None:
    schema = (await setup.http.get("/api/v1/openapi.json")).json()
    assert "/api/v1/models/{model}/load" in schema["paths"]


# --- what is shown ---------------------------------------------------------------------------


async def test_openai_client_lists_all_models_with_their_state(setup: Setup) -> None:
    setup.operations.at = fleet()
    async with openai.AsyncOpenAI(base_url=f"{setup.gateway.url}/v1", api_key="k") as ai:
        listed = {m.id: m.model_extra["state"] async for m in await ai.models.list()}
        assert listed == {"gpt2": "ready", "cold": "unloaded"}
        assert (await ai.models.retrieve("gpt2")).owned_by == "prod"
        with pytest.raises(openai.NotFoundError):
            await ai.models.retrieve("nope")


async def test_readiness_of_a_model_does_not_load_it(setup: Setup) -> None:
    setup.board.know(["m"])
    assert (await setup.http.get("/v2/models/m/ready")).status_code == 400
    assert setup.listener.demanded == []


async def test_metrics_are_served_with_the_format_that_scrapers_expect(setup: Setup) -> None:
    setup.metrics.observe(fleet())
    answer = await setup.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'modelium_model_qps{gpu="2",model="gpt2",runtime="vllm"} 1.5' in answer.text


@pytest.mark.parametrize(
    "path",
    [
        *("/models%2Fx", "/api/v1/events?after=100000000000000000000000", "/api/v1/models/"),
        *("/api/v1/events?after=-1", "/api/v1/models/m/rollback?version=9999999999999999999"),
    ],
)
async def test_odd_paths_are_the_clients_mistake_and_lead_nowhere(setup: Setup, path: str) -> None:
    method = "POST" if "rollback" in path else "GET"
    answer = await setup.http.request(method, path, headers={"host": "localhost:1"})
    assert 400 <= answer.status_code < 500
    assert "location" not in answer.headers


async def test_a_long_unknown_name_is_cut_in_the_answer(setup: Setup) -> None:
    name = "x" * 1_000_000
    answer = await setup.http.post("/v1/chat/completions", json={"model": name})
    assert answer.status_code == 404 and len(answer.content) < 1000


async def test_a_rate_is_a_number(setup: Setup) -> None:
    body = b'{"name": "k", "requests_per_minute": 1e400}'
    answer = await setup.http.post(
        "/api/v1/keys", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
