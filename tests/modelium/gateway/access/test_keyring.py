"""API keys over HTTP: who may do what, and how much of it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import openai
import pytest

from modelium.gateway.access.keyring import KeyHolder
from modelium.models import Fleet, Priority
from modelium.models.api_keys import ApiKey
from tests.fakes.clock import FakeClock
from tests.fakes.fleets import model
from tests.fakes.upstream import Upstream
from tests.modelium.gateway.conftest import Setup, Start, until

pytestmark = pytest.mark.slow

CHAT = {"model": "m", "messages": []}
OPERATOR = {"authorization": "Bearer operators-own"}


async def issue(setup: Setup, **terms: Any) -> dict[str, str]:
    """A fresh key's header."""
    answer = await setup.http.post("/api/v1/keys", json={"name": "n", **terms}, headers=OPERATOR)
    assert answer.status_code == 201, answer.text
    return {"authorization": f"Bearer {answer.json()['secret']}"}


async def chat(setup: Setup, headers: dict[str, str], **more: Any) -> httpx.Response:
    return await setup.http.post("/v1/chat/completions", json={**CHAT, **more}, headers=headers)


@pytest.fixture
async def guarded(start: Start) -> Any:
    async with start(token="operators-own") as running:
        yield running


async def test_a_key_infers_beside_the_token_until_it_is_revoked(
    guarded: Setup, engine: Upstream
) -> None:
    guarded.board.open("m", engine.address("m"))
    key = await issue(guarded)
    assert (await chat(guarded, key)).status_code == 200
    assert "authorization" not in engine.seen[0].headers
    assert (await chat(guarded, OPERATOR)).status_code == 200
    assert (await guarded.http.delete("/api/v1/keys/k1", headers=OPERATOR)).status_code == 200
    refused = await chat(guarded, key)
    assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
    assert "revoked" in refused.json()["error"]["message"]
    (shown,) = (await guarded.http.get("/api/v1/keys", headers=OPERATOR)).json()
    assert shown["revoked_at"]
    assert "hash" not in shown and "secret" not in shown


@pytest.mark.parametrize("secret", ["mdl_", "mdl_wrong", "nothing-like-it", ""])
async def test_what_is_no_key_opens_nothing(guarded: Setup, secret: str) -> None:
    await issue(guarded)
    answer = await chat(guarded, {"authorization": f"Bearer {secret}".strip()})
    assert answer.status_code == 401


async def test_on_loopback_without_a_token_a_key_counts_and_a_wrong_one_is_refused(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.open("m", engine.address("m"))
    key = await issue(setup, models=["other"])
    assert (await chat(setup, key)).status_code == 403
    assert (await chat(setup, {"authorization": "Bearer mdl_wrong"})).status_code == 401
    assert (await chat(setup, {"authorization": "Bearer anything"})).status_code == 200


@pytest.mark.parametrize(
    ("scopes", "path", "method", "status"),
    [
        (["infer"], "/v1/models", "GET", 200),
        (["infer"], "/v2/health/ready", "GET", 200),
        (["infer"], "/rerank", "POST", 400),
        (["infer"], "/v1/audio/transcriptions", "POST", 400),
        (["ingest"], "/score", "POST", 403),
        (["ingest"], "/v1/images/generations", "POST", 403),
        (["infer"], "/api/v1/models", "GET", 403),
        (["infer", "ingest"], "/api/v1/drops", "GET", 403),
        (["infer"], "/api/v1/keys", "GET", 403),
        (["infer"], "/metrics", "GET", 403),
        (["infer"], "/", "GET", 403),
        (["infer"], "/hooks/ingest", "POST", 403),
        (["ingest"], "/hooks/ingest", "POST", 400),
        (["ingest"], "/v1/models", "GET", 403),
        (["ingest"], "/api/v1/ingest", "POST", 403),
        (["admin"], "/api/v1/models", "GET", 200),
        (["admin"], "/api/v1/drops", "GET", 200),
        (["admin"], "/v1/models", "GET", 200),
        (["admin"], "/", "GET", 200),
    ],
)
async def test_a_key_opens_what_its_scopes_say(
    guarded: Setup, scopes: list[str], path: str, method: str, status: int
) -> None:
    key = await issue(guarded, scopes=scopes)
    answer = await guarded.http.request(method, path, headers=key)
    assert answer.status_code == status, answer.text


async def test_no_route_of_operators_is_open_to_other_keys(guarded: Setup) -> None:
    admin = await issue(guarded, scopes=["admin"])
    paths = (await guarded.http.get("/api/v1/openapi.json", headers=admin)).json()["paths"]
    others = await issue(guarded, scopes=["infer", "ingest"])
    asked = [(method, path) for path in paths if path.startswith("/api/") for method in paths[path]]
    assert len(asked) > 25
    for method, path in asked:
        for headers, status in (({}, 401), (others, 403)):
            answer = await guarded.http.request(method, path, headers=headers)
            assert answer.status_code == status, f"{method} {path}: {answer.text}"
    assert guarded.operations.kept == {}


async def test_a_key_sees_and_uses_its_models_alone(guarded: Setup, engine: Upstream) -> None:
    guarded.board.open("m", engine.address("m", "openai", "kserve"))
    guarded.board.open("n", engine.address("n", "openai", "kserve"))
    guarded.operations.at = Fleet(at=1.0, revision=1, models=(model("m"), model("n")))
    key = await issue(guarded, models=["n"])
    listed = (await guarded.http.get("/v1/models", headers=key)).json()["data"]
    assert [entry["id"] for entry in listed] == ["n"]
    assert (await guarded.http.get("/v1/models/m", headers=key)).status_code == 404
    assert (await guarded.http.get("/v2/models/m/ready", headers=key)).status_code == 400
    refused = await chat(guarded, key)
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "model-not-allowed"
    assert refused.json()["error"]["type"] == "permission_error"
    assert (await guarded.http.get("/v2/models/m", headers=key)).status_code == 403
    assert (await guarded.http.get("/models/m/anything", headers=key)).status_code == 403
    assert (await chat(guarded, key, model="n")).status_code == 200
    assert [seen.json["model"] for seen in engine.seen] == ["n"]
    form = {"files": {"file": b"RIFF"}, "headers": key}
    for name, status in (("m", 403), ("n", 200)):
        answer = await guarded.http.post("/v1/audio/transcriptions", data={"model": name}, **form)
        assert answer.status_code == status, answer.text


async def test_past_its_rate_a_key_gets_429_with_the_time_to_the_next_request(
    guarded: Setup, engine: Upstream
) -> None:
    guarded.board.open("m", engine.address("m"))
    key, other = await issue(guarded, requests_per_minute=2), await issue(guarded)
    assert [(await chat(guarded, key)).status_code for _ in range(3)] == [200, 200, 429]
    refused = await chat(guarded, key)
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert "2 requests per minute" in refused.json()["error"]["message"]
    assert (await chat(guarded, other)).status_code == 200
    url = f"{guarded.gateway.url}/v1"
    secret = key["authorization"].removeprefix("Bearer ")
    async with openai.AsyncOpenAI(base_url=url, api_key=secret, max_retries=0) as ai:
        with pytest.raises(openai.RateLimitError):
            await ai.chat.completions.create(model="m", messages=[])
    text = guarded.metrics.render().decode()
    assert 'modelium_requests_refused_total{model="other",reason="rate-limited"} 3.0' in text


async def test_a_keys_bound_at_once_counts_waiting_requests_and_is_given_back(
    guarded: Setup, engine: Upstream
) -> None:
    guarded.board.know(["m"])
    key = await issue(guarded, max_concurrent=1)
    waiting = asyncio.create_task(chat(guarded, key))
    await until(lambda: guarded.board.traffic.pending("m") == 1)
    refused = await chat(guarded, key)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"]["code"] == "too-many-at-once"
    guarded.board.open("m", engine.address("m"))
    assert (await waiting).status_code == 200
    assert (await chat(guarded, key)).status_code == 200


@pytest.mark.parametrize(
    ("terms", "expected"),
    [({"priority": "medium"}, Priority.MEDIUM), ({"team": "prod"}, Priority.HIGH), ({}, None)],
)
async def test_waiting_requests_carry_their_keys_class_to_the_planner(
    start: Start, terms: dict[str, str], expected: Priority | None
) -> None:
    async with start(important_teams=frozenset({"prod"})) as setup:
        setup.board.know(["m"])
        key = await issue(setup, **terms)
        waiting = asyncio.create_task(chat(setup, key))
        await until(lambda: setup.board.traffic.pending("m") == 1)
        assert setup.board.traffic.snapshot()["m"].pending_priority is expected
        waiting.cancel()
        await until(lambda: setup.board.traffic.pending("m") == 0)
        assert setup.board.traffic.snapshot()["m"].pending_priority is None


@pytest.mark.parametrize("path", ["/hooks/ingest", "/api/v1/ingest"])
async def test_a_drop_belongs_to_the_keys_team_and_ranks_no_higher_than_the_key(
    guarded: Setup, path: str
) -> None:
    key = await issue(guarded, team="lab", priority="medium", scopes=["admin"])
    drop = {"path": str(guarded.incoming / "x")}
    for asked, ceiling in (
        ({}, "medium"),
        ({"priority_ceiling": "high"}, "medium"),
        ({"priority_ceiling": "low", "team": "lab"}, "low"),
    ):
        answer = await guarded.http.post(path, json={**drop, **asked}, headers=key)
        assert answer.status_code == 202, answer.text
        parameters = answer.json()["parameters"]
        assert (parameters["team"], parameters["priority_ceiling"]) == ("lab", ceiling)
    foreign = await guarded.http.post(path, json={**drop, "team": "prod"}, headers=key)
    assert foreign.status_code == 403


async def test_bad_terms_are_a_400(guarded: Setup) -> None:
    for terms in ({"scopes": ["root"]}, {"max_concurrent": 0}, {"unknown": 1}):
        answer = await guarded.http.post(
            "/api/v1/keys", json={"name": "n", **terms}, headers=OPERATOR
        )
        assert answer.status_code == 400, answer.text
    assert (await guarded.http.delete("/api/v1/keys/k9", headers=OPERATOR)).status_code == 400


async def test_a_key_is_refused_from_its_expiry_on(guarded: Setup, engine: Upstream) -> None:
    guarded.board.open("m", engine.address("m"))
    key = await issue(guarded, expires_at=time.time() + 3600)
    assert (await chat(guarded, key)).status_code == 200
    ((hashed, known),) = guarded.operations.issued.items()
    guarded.operations.issued.clear()
    await issue(guarded)  # has the keys read again
    past = known.model_copy(update={"expires_at": time.time()})
    guarded.operations.issued[hashed] = past
    await issue(guarded)
    refused = await chat(guarded, key)
    assert refused.status_code == 401
    assert "expired" in refused.json()["error"]["message"]
    assert (await guarded.http.get("/api/v1/models", headers=key)).status_code == 401


def test_the_clock_is_asked_at_each_request() -> None:
    clock = FakeClock()
    key = ApiKey(name="n", id="k", created_at=0.0, expires_at=clock.time() + 60)
    holder = KeyHolder(key=key, priority=None, clock=clock)
    assert not holder.is_expired()
    clock.advance(60)
    assert holder.is_expired()


@pytest.mark.parametrize(
    "terms",
    [
        {"name": "a\x1b[2Jb"},
        {"name": "a\nb"},
        {"name": "a\u202eb"},
        {"team": "\x07"},
        {"models": ["m\x1b[2J"]},
        {"expires_at": 1.0},
        {"expires_at": 0},
        {"expires_at": "1e400"},
        {"expires_at": "soon"},
    ],
)
async def test_terms_that_cannot_be_shown_or_met_are_refused(
    setup: Setup, terms: dict[str, Any]
) -> None:
    answer = await setup.http.post("/api/v1/keys", json={"name": "n", **terms})
    assert answer.status_code == 400, answer.text
    assert setup.operations.issued == {}
