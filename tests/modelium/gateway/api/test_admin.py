"""The admin API."""

from __future__ import annotations

import asyncio

import pytest

from modelium.control.reload import Reloaded
from modelium.errors import ConfigError
from modelium.models import (
    GIB,
    Decision,
    Event,
    Plan,
    Trigger,
)
from tests.modelium.gateway.api.fleets import drop, fleet
from tests.modelium.gateway.conftest import Setup, until

pytestmark = pytest.mark.slow


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


async def test_teams_are_listed_with_what_they_have(setup: Setup) -> None:
    setup.operations.at = fleet()
    prod, research = (await setup.http.get("/api/v1/teams")).json()
    assert (prod["name"], prod["declared"], prod["held_bytes"]) == ("prod", False, 20 * GIB)
    assert (research["name"], research["memory_quota_bytes"]) == ("research", GIB)


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


async def test_load_retry_and_unload_answer_202_with_the_intent(setup: Setup) -> None:
    setup.operations.at = fleet()
    for verb in ("load", "retry", "unload"):
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
    assert approved.json()["parameters"] == {"what": ["pickle"], "team": None}
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


async def test_drops_are_listed_and_explained(setup: Setup) -> None:
    setup.operations.dropped = [drop(), drop(name="odd", state="rejected", reason="no model")]
    listed = (await setup.http.get("/api/v1/drops")).json()
    assert [(d["name"], d["state"], d["reason"]) for d in listed] == [
        ("half.gguf", "incomplete", "half.gguf is empty"),
        ("odd", "rejected", "no model"),
    ]
    explained = (await setup.http.get("/api/v1/models/odd/explain")).json()
    assert (explained["model"], explained["drops"]) == (None, listed[1:])


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


async def test_reload_reports_what_changed_and_what_needs_a_restart(setup: Setup) -> None:
    setup.operations.reloaded = Reloaded(changed=("a: 1 → 2",), restart=("b needs a restart",))
    answer = await setup.http.post("/api/v1/reload")
    assert answer.json() == {
        "changed": ["a: 1 → 2"],
        "restart": ["b needs a restart"],
        "models": [],
    }
    setup.operations.failure = ConfigError("m.yaml:1: not YAML")
    refused = await setup.http.post("/api/v1/reload")
    assert refused.status_code == 400
    assert "not YAML" in refused.text


async def test_authors_are_compared_over_a_week_unless_asked_otherwise(setup: Setup) -> None:
    answer = await setup.http.get("/api/v1/brain/report")
    week = {"since": 1000.0 - 7 * 86_400, "until": 1000.0, "oldest": None, "trigger": None}
    assert answer.json() == {**week, "authors": [], "departures": []}
    asked = {"seconds": "60", "trigger": "review"}
    found = (await setup.http.get("/api/v1/brain/report", params=asked)).json()
    assert (found["since"], found["trigger"]) == (940.0, "review")


@pytest.mark.parametrize(
    "asked",
    [
        *[{"seconds": seconds} for seconds in ("0", "-1", "nan", "inf", "315360001", "week")],
        {"trigger": "whim"},
    ],
)
async def test_a_report_of_no_time_or_trigger_is_refused(
    setup: Setup, asked: dict[str, str]
) -> None:
    answer = await setup.http.get("/api/v1/brain/report", params=asked)
    assert answer.status_code in (400, 422)
