"""The admin API, the webhook, the model list, the status page."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
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
from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    Booking,
    Decision,
    Deployment,
    Device,
    Event,
    Fleet,
    LoadSettings,
    Model,
    Plan,
    RuntimeName,
    RuntimeStatus,
    Traffic,
    Trigger,
    Upstream,
    Violation,
)
from modelium.policy import PlanRejected
from tests.modelium.gateway.conftest import Setup, Start, until

GPU = Device(
    node="n1", uuid="GPU-1", kind="gpu", index=2, total_bytes=80 * GIB, free_bytes=50 * GIB
)


def fleet(**changes: object) -> Fleet:
    deployment = Deployment(
        model="gpt2",
        version=1,
        runtime=RuntimeName.VLLM,
        devices=(GPU.id,),
        settings=LoadSettings(),
        upstream=Upstream(
            host="127.0.0.1",
            port=1,
            served_name="gpt2",
            apis=frozenset({"openai"}),
            api_key="engine-secret",
        ),
        handle={"key": "handle-secret"},
        started_at=900.0,
        ready_at=950.0,
    )
    model = Model(
        name="gpt2",
        path="/r/gpt2",
        state=ModelState.READY,
        state_since=950.0,
        registered_at=800.0,
        team="prod",
        deployment=deployment,
        traffic=Traffic(qps=1.5, last_request_at=990.0),
        reason="fits on GPU 2",
    ).model_copy(update=changes)
    cold = Model(
        name="cold", path="/r/cold", state=ModelState.UNLOADED, state_since=1.0, registered_at=1.0
    )
    return Fleet(
        at=1000.0,
        revision=7,
        devices=(GPU,),
        models=(model, cold),
        bookings=(Booking(model="gpt2", device=GPU.id, bytes=20 * GIB, resident_bytes=19 * GIB),),
    )


async def test_models_are_listed_with_state_place_and_reason(setup: Setup) -> None:
    setup.operations.at = fleet()
    loaded, cold = (await setup.http.get("/api/v1/models")).json()
    assert loaded["state"] == "ready"
    assert (loaded["runtime"], loaded["devices"]) == ("vllm", ["2"])
    assert (loaded["booked_bytes"], loaded["idle_s"]) == (20 * GIB, 10.0)
    assert loaded["reason"] == "fits on GPU 2"
    assert (cold["state"], cold["idle_s"], cold["runtime"]) == ("unloaded", None, None)


async def test_devices_are_listed_with_what_they_hold(setup: Setup) -> None:
    setup.operations.at = fleet()
    (device,) = (await setup.http.get("/api/v1/devices")).json()
    assert (device["label"], device["used_bytes"]) == ("2", 30 * GIB)
    assert (device["booked_bytes"], device["models"]) == (20 * GIB, ["gpt2"])


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/v1/models/gpt2", None),
        ("GET", "/api/v1/models/gpt2/explain", None),
        ("PUT", "/api/v1/models/gpt2/pin", {"pinned": True}),
        ("GET", "/api/v1/models", None),
        ("GET", "/v1/models", None),
        ("GET", "/", None),
    ],
)
async def test_engine_keys_and_handles_are_never_shown(
    setup: Setup, method: str, path: str, body: object
) -> None:
    setup.operations.at = fleet()
    answer = await setup.http.request(method, path, json=body)
    assert answer.status_code == 200
    assert "gpt2" in answer.text
    assert "secret" not in answer.text


async def test_load_and_unload_answer_202_with_the_intent(setup: Setup) -> None:
    setup.operations.at = fleet()
    for verb in ("load", "unload"):
        answer = await setup.http.post(f"/api/v1/models/gpt2/{verb}")
        assert answer.status_code == 202
        assert (answer.json()["kind"], answer.json()["state"]) == (verb, "pending")


async def test_wait_answers_as_soon_as_the_intent_ended(setup: Setup) -> None:
    setup.operations.at = fleet()
    waiting = asyncio.create_task(setup.http.post("/api/v1/models/cold/load?wait=20"))
    await until(lambda: "i1" in setup.operations.kept)
    setup.operations.end("i1", "ready on GPU 2")
    answer = (await waiting).json()
    assert (answer["state"], answer["detail"]) == ("done", "ready on GPU 2")


async def test_wait_that_is_over_answers_with_the_pending_intent(setup: Setup) -> None:
    setup.operations.at = fleet()
    answer = await setup.http.post("/api/v1/models/cold/load?wait=0.1")
    assert (answer.status_code, answer.json()["state"]) == (202, "pending")
    later = await setup.http.get(f"/api/v1/intents/{answer.json()['id']}")
    assert later.json()["kind"] == "load"


async def test_pin_approve_plan_intents_events_status(setup: Setup) -> None:
    setup.operations.at = fleet()
    setup.operations.happened = [Event(id=n, at=n, kind="model.ready") for n in (1, 2, 3)]
    pinned = await setup.http.put("/api/v1/models/gpt2/pin", json={"pinned": True})
    assert pinned.json()["pinned"] is True
    approved = await setup.http.post("/api/v1/models/drop/approve", json={"what": ["pickle"]})
    assert approved.json()["parameters"] == {"what": ["pickle"]}
    plan = await setup.http.post("/api/v1/plan", json={"model": "gpt2"})
    assert plan.json()["subject"] == "gpt2"
    intents = (await setup.http.get("/api/v1/intents?limit=1")).json()
    assert [i["kind"] for i in intents] == ["approve"]
    events = (await setup.http.get("/api/v1/events?after=1")).json()
    assert [e["id"] for e in events] == [3, 2]
    assert (await setup.http.get("/api/v1/status")).json() == {"enabled": True}
    explained = (await setup.http.get("/api/v1/models/gpt2/explain")).json()
    assert explained["model"]["name"] == "gpt2"
    assert len(explained["events"]) == 3


async def test_decisions_are_shown_whole_but_for_the_packed_snapshot(setup: Setup) -> None:
    setup.operations.at = fleet()
    plan = Plan(author="llm", trigger=Trigger.INGEST, subject="gpt2")
    asked = {"endpoint": "http://llm", "messages": [], "snapshot": "cGFja2Vk"}
    setup.operations.decided = [
        Decision(id="d2", at=2.0, plan=plan, snapshot_digest="x", trace=asked),
        Decision(id="d1", at=1.0, plan=plan, snapshot_digest="x"),
    ]
    every = (await setup.http.get("/api/v1/decisions")).json()
    assert [d["id"] for d in every] == ["d2", "d1"]
    (advised,) = (await setup.http.get("/api/v1/decisions?advised=true")).json()
    assert advised["trace"] == {"endpoint": "http://llm", "messages": []}
    explained = (await setup.http.get("/api/v1/models/gpt2/explain")).json()
    assert explained["decisions"] == every
    assert (await setup.http.get("/api/v1/decisions/d1")).json() == every[1]
    again = (await setup.http.post("/api/v1/decisions/d2/replay")).json()
    assert again["decision"] == advised
    assert again["trace"]["fallback"] == "timeout: x"


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


@pytest.mark.parametrize(
    ("method", "path", "body", "said"),
    [
        ("PUT", "/api/v1/models/m/pin", {"pinned": "perhaps"}, "pinned"),
        ("PUT", "/api/v1/models/m/pin", {"pinned": True, "x": 1}, "x"),
        ("POST", "/api/v1/models/m/approve", {"what": ["everything"]}, "what"),
        ("POST", "/api/v1/ingest", {"path": "relative/path"}, "absolute"),
        ("POST", "/api/v1/ingest", {}, "path"),
        ("POST", "/api/v1/models/m/load?wait=1e9", None, "wait"),
        ("GET", "/api/v1/events?limit=0", None, "limit"),
    ],
)
async def test_bad_input_is_a_400_that_names_the_field(
    setup: Setup, method: str, path: str, body: object, said: str
) -> None:
    answer = await setup.http.request(method, path, json=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert setup.operations.kept == {}


@pytest.mark.parametrize("chunked", [False, True])
async def test_oversized_admin_bodies_are_refused(setup: Setup, chunked: bool) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100_000

    content = parts() if chunked else b" " * 2_000_000
    answer = await setup.http.post("/api/v1/plan", content=content)
    assert answer.status_code == 413
    assert answer.json()["error"]["message"]


async def test_unknown_model_intent_and_route_are_told(setup: Setup) -> None:
    assert (await setup.http.get("/api/v1/models/nope")).status_code == 404
    assert (await setup.http.get("/api/v1/intents/nope")).status_code == 400
    assert (await setup.http.get("/api/v1/nope")).json()["error"]["reason"] == "not-found"
    assert (await setup.http.get("/v1/chat/completions")).json()["error"]["code"]


async def test_operators_import_any_absolute_path(setup: Setup) -> None:
    answer = await setup.http.post(
        "/api/v1/ingest", json={"path": "/data/m", "team": "prod", "priority_ceiling": "low"}
    )
    assert answer.status_code == 202
    assert answer.json()["parameters"] == {
        "path": "/data/m",
        "team": "prod",
        "priority_ceiling": "low",
    }


async def test_schema_describes_the_admin_api(setup: Setup) -> None:
    schema = (await setup.http.get("/api/v1/openapi.json")).json()
    assert "/api/v1/models/{model}/load" in schema["paths"]


# --- webhook ---------------------------------------------------------------------------------


async def test_hook_takes_what_lies_in_the_drop_zone(setup: Setup) -> None:
    for given in ("gpt2", str(setup.incoming / "gpt2")):
        answer = await setup.http.post("/hooks/ingest", json={"path": given, "team": "prod"})
        assert answer.status_code == 202
        assert answer.json()["parameters"]["path"] == str(setup.incoming.resolve() / "gpt2")


@pytest.mark.parametrize("given", ["/etc", "../outside", "a/../..", ".", "", "link", "a\x00b"])
async def test_hook_refuses_what_lies_elsewhere(setup: Setup, given: str) -> None:
    (setup.incoming / "link").symlink_to("/etc")
    answer = await setup.http.post("/hooks/ingest", json={"path": given})
    assert answer.status_code == 400
    assert answer.json()["error"]["reason"] == "bad-input"
    assert setup.operations.kept == {}


async def test_hook_with_a_secret_wants_the_bodys_signature(start: Start) -> None:
    body = json.dumps({"path": "gpt2"}).encode()
    right = "sha256=" + hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
    async with start(webhook_secret="s3cret") as setup:
        for signature in (None, "", "sha256=", right[:-1] + "x", right.removeprefix("sha256=")):
            headers = {} if signature is None else {"x-modelium-signature": signature}
            refused = await setup.http.post("/hooks/ingest", content=body, headers=headers)
            assert refused.status_code == 401
        assert setup.operations.kept == {}
        signed = {"x-modelium-signature": right}
        other = await setup.http.post("/hooks/ingest", content=body + b" ", headers=signed)
        assert other.status_code == 401
        taken = await setup.http.post("/hooks/ingest", content=body, headers=signed)
        assert taken.status_code == 202


@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 400), (b'{"paths": 1}', 400), (b" " * 70_000, 413)]
)
async def test_hook_refuses_bad_and_oversized_bodies(
    setup: Setup, body: bytes, status: int
) -> None:
    answer = await setup.http.post("/hooks/ingest", content=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


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


async def test_page_shows_models_devices_reasons_and_links(setup: Setup) -> None:
    setup.operations.at = fleet()
    page = await setup.http.get("/")
    for shown in ("gpt2", "ready", "fits on GPU 2", "30.0 GiB / 80.0 GiB", "1.50", "vllm"):
        assert shown in page.text
    assert 'href="http://127.0.0.1:4200"' in page.text
    assert 'href="/metrics"' in page.text
    assert "http-equiv" in page.text


async def test_page_escapes_what_came_from_model_folders(setup: Setup) -> None:
    evil = '<script>alert("1")</script>'
    at = fleet(reason=evil, team=evil)
    sick = GPU.model_copy(update={"name": evil, "healthy": False, "detail": evil})
    down = RuntimeStatus(name=RuntimeName.TRITON, enabled=True, healthy=False, detail=evil)
    setup.operations.at = at.model_copy(update={"devices": (sick,), "runtimes": (down,)})
    page = await setup.http.get("/")
    assert "<script" not in page.text
    assert "&lt;script&gt;" in page.text
    assert "script-src" not in page.headers["content-security-policy"]
    assert "default-src 'none'" in page.headers["content-security-policy"]


async def test_page_of_an_empty_fleet_says_what_to_do(setup: Setup) -> None:
    assert "Put a model folder into the drop zone" in (await setup.http.get("/")).text


async def test_metrics_are_served_with_the_format_that_scrapers_expect(setup: Setup) -> None:
    setup.metrics.observe(fleet())
    answer = await setup.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'modelium_model_qps{gpu="2",model="gpt2",runtime="vllm"} 1.5' in answer.text
