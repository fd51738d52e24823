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
        assert (await prod.get(f"/api/v1/models/{name}")).status_code == 200
    assert setup.operations.kept == {}
    assert (await prod.post("/api/v1/models/gpt2/unload")).status_code == 202
    assert (await prod.post("/api/v1/models/none/load")).status_code == 404
    assert (await setup.http.post("/api/v1/models/lab/load")).status_code == 202


async def test_its_loads_keep_the_quotas_of_its_team(setup: Setup, prod: Any) -> None:
    for verb in ("load", "retry"):
        for client, trigger in ((prod, "team"), (setup.http, "operator")):
            answer = await client.post(f"/api/v1/models/gpt2/{verb}")
            assert answer.status_code == 202
            assert answer.json()["parameters"] == {"trigger": trigger}


@pytest.mark.parametrize(
    ("method", "path", "what"),
    [
        ("PUT", "models/gpt2/pin", "pin models"),
        ("POST", "reload", "reload the configuration"),
        ("POST", "decisions/d/replay", "ask the LLM again"),
    ],
)
async def test_what_concerns_all_teams_is_an_operators(
    setup: Setup, prod: Any, method: str, path: str, what: str
) -> None:
    answer = await prod.request(method, f"/api/v1/{path}", json={"pinned": True})
    assert told(answer) == (403, f"this key belongs to team prod, and only an operator may {what}")
    assert not setup.operations.at.models_by_name["gpt2"].pinned


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
            assert answer.json()["parameters"]["bound"] == "prod"
            assert answer.json()["model"] == drop
    answer = await setup.http.post(path, json={"path": str(setup.incoming / "lab")})
    assert answer.status_code == 202
    assert "bound" not in answer.json()["parameters"]


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


OWN = {
    "expires_at": 4e9,
    "models": ["a", "b"],
    "requests_per_minute": 60.0,
    "max_concurrent": 4,
    "priority": "medium",
}


@pytest.mark.parametrize(
    ("term", "less", "more"),
    [
        ("expires_at", 3.9e9, 4.1e9),
        ("models", ["b"], ["b", "c"]),
        ("requests_per_minute", 59.0, 61.0),
        ("max_concurrent", 3, 5),
        ("priority", "low", "high"),
    ],
)
async def test_it_issues_no_key_with_more_than_its_own_terms(
    setup: Setup, term: str, less: Any, more: Any
) -> None:
    terms = {"name": "k", "team": "prod", "scopes": ["admin"], **OWN}
    secret = (await setup.http.post("/api/v1/keys", json=terms)).json()["secret"]
    headers = {"authorization": f"Bearer {secret}"}

    async def issue(**given: Any) -> httpx.Response:
        body = {"name": "n", **given}
        return await setup.http.post("/api/v1/keys", json=body, headers=headers)

    key = (await issue()).json()["key"]
    assert {**{own: key[own] for own in OWN}, "models": sorted(key["models"])} == OWN
    for allowed in (less, OWN[term]):
        given = (await issue(**{term: allowed})).json()["key"][term]
        assert (sorted(given) if term == "models" else given) == allowed
    answer = await issue(**{term: more})
    assert told(answer) == (403, f"this key issues no key with more than its own {term}")
    assert (await setup.http.post("/api/v1/keys", json={"name": "n", term: more})).is_success


async def test_a_key_without_limits_issues_any_but_those_of_a_higher_class(
    setup: Setup, prod: Any
) -> None:
    terms = {**OWN, "priority": "low"}
    key = (await prod.post("/api/v1/keys", json={"name": "n", **terms})).json()["key"]
    assert {**{own: key[own] for own in OWN}, "models": sorted(key["models"])} == terms
    answer = await prod.post("/api/v1/keys", json={"name": "n", "priority": "medium"})
    assert told(answer) == (403, "this key issues no key with more than its own priority")


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
