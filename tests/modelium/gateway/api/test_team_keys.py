"""A key with a team acts for that team alone, whatever its scopes are."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from modelium.models import Fleet
from tests.fakes.fleets import model
from tests.modelium.gateway.api.fleets import fleet
from tests.modelium.gateway.conftest import Setup

pytestmark = pytest.mark.slow


@pytest.fixture
async def prod(setup: Setup) -> Any:
    """A client with an admin key of team prod; gpt2 is prod's, lab's is lab's, cold nobody's."""
    at = fleet()
    others = (*at.models, model("lab", team="lab"))
    setup.operations.at = Fleet(**{**dict(at), "models": others})
    terms = {"name": "k", "team": "prod", "scopes": ["admin"]}
    answer = await setup.http.post("/api/v1/keys", json=terms)
    headers = {"authorization": f"Bearer {answer.json()['secret']}"}
    async with httpx.AsyncClient(base_url=setup.gateway.url, headers=headers) as client:
        yield client


def told(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["message"]


async def test_it_changes_the_models_of_its_team_alone(setup: Setup, prod: Any) -> None:
    for name, whose in (("lab", "team lab"), ("cold", "no team")):
        for verb in ("load", "retry", "unload", "rollback"):
            answer = await prod.post(f"/api/v1/models/{name}/{verb}")
            assert told(answer) == (403, f"this key belongs to team prod, and {name} to {whose}")
        assert (await prod.delete(f"/api/v1/models/{name}")).status_code == 403
        pin = await prod.put(f"/api/v1/models/{name}/pin", json={"pinned": True})
        assert pin.status_code == 403
        assert (await prod.get(f"/api/v1/models/{name}")).status_code == 200
    assert setup.operations.kept == {}
    for verb in ("load", "retry", "unload"):
        assert (await prod.post(f"/api/v1/models/gpt2/{verb}")).status_code == 202
    assert (await prod.post("/api/v1/models/none/load")).status_code == 404
    assert (await setup.http.post("/api/v1/models/lab/load")).status_code == 202


async def test_it_approves_drops_of_its_team_alone(setup: Setup, prod: Any) -> None:
    path = "/api/v1/models/drop/approve"
    answer = await prod.post(path, json={"team": "lab"})
    assert told(answer) == (403, "this key belongs to team prod and cannot approve drops of lab")
    answer = await prod.post(path, json={"team": ""})
    assert told(answer) == (
        403,
        "this key belongs to team prod and cannot approve drops of no team",
    )
    for given in ({}, {"team": "prod"}):
        answer = await prod.post(path, json=given)
        assert answer.json()["parameters"] == {"what": [], "team": "prod"}
    answer = await setup.http.post(path, json={"team": "lab"})
    assert answer.json()["parameters"] == {"what": [], "team": "lab"}


@pytest.mark.parametrize("path", ["/hooks/ingest", "/api/v1/ingest"])
async def test_it_replaces_models_of_its_team_alone(setup: Setup, prod: Any, path: str) -> None:
    for drop, name, status in (
        ("lab", None, 403),
        ("cold", None, 403),
        ("new", "lab", 403),
        ("gpt2", None, 202),
        ("new", None, 202),
    ):
        body = {"path": str(setup.incoming / drop), "name": name}
        answer = await prod.post(path, json=body)
        assert answer.status_code == status, (drop, name)
        if status == 202:
            assert answer.json()["parameters"]["team"] == "prod"
            assert answer.json()["model"] == drop
    answer = await setup.http.post(path, json={"path": str(setup.incoming / "lab")})
    assert answer.status_code == 202


async def test_it_issues_and_revokes_keys_of_its_team_alone(setup: Setup, prod: Any) -> None:
    for team in ("prod", None):
        answer = await prod.post("/api/v1/keys", json={"name": "n", "team": team})
        assert answer.json()["key"]["team"] == "prod"
    answer = await prod.post("/api/v1/keys", json={"name": "n", "team": "lab"})
    assert told(answer) == (403, "this key belongs to team prod and cannot issue keys of lab")
    others = (await setup.http.post("/api/v1/keys", json={"name": "n"})).json()["key"]["id"]
    answer = await prod.delete(f"/api/v1/keys/{others}")
    assert told(answer) == (403, "this key belongs to team prod and revokes no keys of others")
    assert (await prod.delete("/api/v1/keys/k2")).status_code == 200
    assert (await prod.delete("/api/v1/keys/none")).status_code == 400
    assert (await setup.http.delete(f"/api/v1/keys/{others}")).status_code == 200


@pytest.mark.parametrize(("scope", "status"), [("ingest", 403), ("admin", 202)])
async def test_a_key_without_a_team_names_one_where_it_is_an_operators(
    setup: Setup, scope: str, status: int
) -> None:
    terms = {"name": "k", "scopes": [scope]}
    secret = (await setup.http.post("/api/v1/keys", json=terms)).json()["secret"]
    headers = {"authorization": f"Bearer {secret}"}
    body = {"path": "new", "team": "prod"}
    answer = await setup.http.post("/hooks/ingest", json=body, headers=headers)
    assert answer.status_code == status
