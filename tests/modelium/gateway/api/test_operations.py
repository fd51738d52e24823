"""The admin API over the service's own operations: store, files and stages are real."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from modelium import config
from modelium.clock import SystemClock
from modelium.control.operations import Operations
from modelium.gateway import Gateway
from modelium.metrics import Metrics
from tests.modelium.conftest import World
from tests.samples import broken_onnx, risky_onnx, tiny_onnx

pytestmark = pytest.mark.slow

WAIT = {"wait": 60}


@pytest.fixture
async def http(world: World) -> AsyncIterator[httpx.AsyncClient]:
    operations = Operations(services=world.services)
    gateway = Gateway(
        config=config.Gateway.model_validate({"port": 0, "token": "operators-own"}),
        ingest=config.Ingest(),
        incoming=world.incoming,
        switchboard=world.services.switchboard,
        operations=operations,
        metrics=Metrics(),
        clock=SystemClock(),
        links={},
        shutdown_grace_s=1.0,
    )
    headers = {"authorization": "Bearer operators-own"}
    async with (
        gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=90, headers=headers) as client,
    ):
        yield client
    await operations.aclose()


async def test_a_model_is_ingested_unloaded_and_loaded(
    world: World, http: httpx.AsyncClient
) -> None:
    tiny_onnx(world.incoming / "tiny")
    body = {"path": str(world.incoming / "tiny"), "team": "prod"}
    taken = (await http.post("/api/v1/ingest", json=body, params=WAIT)).json()
    assert (taken["state"], taken["model"]) == ("done", "tiny")
    await world.settled("tiny", "ready")
    for verb, state in (("unload", "unloaded"), ("load", "ready")):
        ended = (await http.post(f"/api/v1/models/tiny/{verb}", params=WAIT)).json()
        assert (ended["kind"], ended["state"]) == (verb, "done")
        await world.settled("tiny", state)
    shown = (await http.get("/api/v1/models/tiny/explain")).json()
    assert (shown["model"]["state"], shown["model"]["team"]) == ("ready", "prod")
    assert shown["decisions"]
    assert shown["events"]


async def test_what_is_approved_is_what_was_asked_for(
    world: World, http: httpx.AsyncClient
) -> None:
    risky_onnx(world.incoming / "tiny", "x.pkl", "x.py")
    refused = (
        await http.post("/api/v1/ingest", json={"path": str(world.incoming / "tiny")}, params=WAIT)
    ).json()
    assert refused["state"] == "failed"
    (drop,) = (await http.get("/api/v1/drops")).json()
    assert drop["approvable"]

    half = await http.post("/api/v1/models/tiny/approve", json={"what": ["pickle"]}, params=WAIT)

    assert half.json()["state"] == "failed", "its Python code was not approved"
    both = {"what": ["pickle", "remote-code"]}
    whole = await http.post("/api/v1/models/tiny/approve", json=both, params=WAIT)
    assert whole.json()["state"] == "done"
    await world.settled("tiny", "ready")
    record = world.store.model("tiny")
    assert world.store.rules.approvals(record.digest) == {"pickle", "remote-code"}
    assert (await http.get("/api/v1/drops")).json() == []


async def test_what_is_not_approvable_is_not_approved(
    world: World, http: httpx.AsyncClient
) -> None:
    broken_onnx(world.incoming / "tiny")
    await http.post("/api/v1/ingest", json={"path": str(world.incoming / "tiny")}, params=WAIT)

    answer = await http.post("/api/v1/models/tiny/approve", json={"what": ["pickle"]})

    assert answer.status_code == 400
    assert "cannot be approved" in answer.text
    assert world.store.names() == frozenset()


async def test_a_pin_and_a_refused_ingest_are_stored(world: World, http: httpx.AsyncClient) -> None:
    (world.incoming / "empty").mkdir(parents=True)
    body = {"path": str(world.incoming / "empty")}
    refused = (await http.post("/api/v1/ingest", json=body, params=WAIT)).json()
    assert refused["state"] == "failed"
    assert refused["detail"]
    assert (await http.put("/api/v1/models/nope/pin", json={"pinned": True})).status_code == 404
    stored = (await http.get(f"/api/v1/intents/{refused['id']}")).json()
    assert stored == refused


async def test_a_key_is_valid_from_issue_to_revocation(http: httpx.AsyncClient) -> None:
    issued = (await http.post("/api/v1/keys", json={"name": "app"})).json()
    own = {"authorization": f"Bearer {issued['secret']}"}
    assert (await http.get("/v1/models", headers=own)).status_code == 200
    assert (await http.get("/api/v1/keys", headers=own)).status_code == 403
    (listed,) = (await http.get("/api/v1/keys")).json()
    assert listed == issued["key"]
    await http.delete(f"/api/v1/keys/{listed['id']}")
    assert (await http.get("/v1/models", headers=own)).status_code == 401


async def test_a_model_is_removed_and_restored(world: World, http: httpx.AsyncClient) -> None:
    await world.load()
    limited = (await http.post("/api/v1/keys", json={"name": "app"})).json()["secret"]
    own = {"authorization": f"Bearer {limited}"}
    assert (await http.delete("/api/v1/models/tiny", headers=own)).status_code == 403
    assert (await http.post("/api/v1/models/tiny/rollback")).status_code == 400
    issued = await http.post("/api/v1/keys", json={"name": "ci", "scopes": ["admin"]})
    admin = {"authorization": f"Bearer {issued.json()['secret']}"}
    gone = await http.delete("/api/v1/models/tiny", params=WAIT, headers=admin)
    assert (gone.status_code, gone.json()["state"]) == (202, "done")
    assert (await http.delete("/api/v1/models/tiny")).status_code == 404
    assert (await http.get("/api/v1/models/tiny")).status_code == 404
    explained = (await http.get("/api/v1/models/tiny/explain")).json()
    assert explained["model"] is None
    assert any(e["detail"].get("by") == "the key ci" for e in explained["events"])
    (entry,) = (await http.get("/api/v1/trash")).json()
    again = await http.post(f"/api/v1/trash/{entry['name']}/restore", params=WAIT)
    assert again.json()["state"] == "done"
    await world.settled("tiny", "ready")
    versions = (await http.get("/api/v1/models/tiny/versions")).json()
    assert [(v["version"], v["removed_by"]) for v in versions] == [(2, None), (1, "the key ci")]


async def test_a_path_as_a_trash_entry_is_refused(world: World, http: httpx.AsyncClient) -> None:
    for name in ("..", "..%2f..", ".", "%2e%2e"):
        answer = await http.post(f"/api/v1/trash/{name}/restore")
        assert answer.status_code in (400, 404, 405), name


async def test_a_key_of_a_team_restores_what_was_its_teams(
    world: World, http: httpx.AsyncClient
) -> None:
    keys = {}
    for team in ("lab", "prod"):
        terms = {"name": "k", "team": team, "scopes": ["admin"]}
        secret = (await http.post("/api/v1/keys", json=terms)).json()["secret"]
        keys[team] = {"authorization": f"Bearer {secret}"}
    tiny_onnx(world.incoming / "tiny")
    body = {"path": str(world.incoming / "tiny"), "team": "lab"}
    await http.post("/api/v1/ingest", json=body, params=WAIT)
    await world.settled("tiny", "ready")
    assert (await http.delete("/api/v1/models/tiny", params=WAIT)).json()["state"] == "done"
    (entry,) = (await http.get("/api/v1/trash")).json()
    assert entry["team"] == "lab"
    refused = await http.post("/api/v1/trash/tiny/restore", headers=keys["prod"])
    assert refused.status_code == 400
    restored = await http.post("/api/v1/trash/tiny/restore", params=WAIT, headers=keys["lab"])
    assert restored.json()["state"] == "done"
    assert world.store.model("tiny").team == "lab"
