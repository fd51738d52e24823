"""What the admin API and the routes about models answer, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from modelium import __version__
from modelium.errors import InputError
from modelium.gateway.access.keyring import KeyHolder
from modelium.gateway.api.admin import Ingest
from modelium.gateway.api.app import MAX_BODY_BYTES, limit_body
from modelium.gateway.api.teams import check_replaces
from modelium.gateway.api.webhook import _within
from modelium.gateway.problems import HttpProblem
from modelium.models import Event, Fleet, Priority, Removal
from modelium.models.api_keys import ApiKey
from tests.fakes.clock import FakeClock
from tests.fakes.fleets import model
from tests.modelium.gateway.api.fleets import fleet
from tests.modelium.gateway.conftest import Setup, Start


def holder(priority: str | None = None, **terms: Any) -> KeyHolder:
    key = ApiKey.model_validate({"id": "k", "name": "n", "created_at": 0.0, **terms})
    return KeyHolder(key=key, priority=Priority(priority) if priority else None, clock=FakeClock())


@pytest.mark.parametrize(
    ("asked", "key", "team", "ceiling"),
    [
        ({"team": "a", "priority_ceiling": "high"}, None, "a", "high"),
        ({}, holder(), None, None),
        ({"team": "a", "priority_ceiling": "low"}, holder(scopes=["admin"]), "a", "low"),
        ({}, holder("medium", team="b"), "b", "medium"),
        ({"priority_ceiling": "high"}, holder("medium"), None, "medium"),
        ({"priority_ceiling": "low"}, holder("medium"), None, "low"),
        ({"team": "b"}, holder(team="b"), "b", None),
    ],
)
def test_an_ingest_is_made_as_its_key_may(
    asked: dict[str, str], key: KeyHolder | None, team: str | None, ceiling: str | None
) -> None:
    made = Ingest.model_validate({"path": "/x", **asked}).on_behalf_of(key)
    assert (made.path, made.team, made.priority_ceiling) == ("/x", team, ceiling)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (holder(team="b"), "this key belongs to team b and cannot ingest for a"),
        (
            holder(team="b", scopes=["admin"]),
            "this key belongs to team b and cannot ingest for a",
        ),
        (holder(scopes=["ingest"]), "this key belongs to no team and cannot ingest for a"),
    ],
)
def test_an_ingest_for_another_team_is_refused(key: KeyHolder, said: str) -> None:
    with pytest.raises(HttpProblem) as problem:
        Ingest(path="/x", team="a").on_behalf_of(key)
    assert (problem.value.status, problem.value.reason) == (403, "team")
    assert str(problem.value) == said


@pytest.mark.parametrize(
    ("terms", "team", "said"),
    [
        ({"models": ["m"]}, "a", None),
        ({"models": ["m"], "team": "b"}, None, None),
        (
            {"models": ["m"], "team": "b"},
            "a",
            "m belongs to team a; this key may replace models of team b",
        ),
        ({"models": ["x"]}, None, "this key may not ingest m"),
        ({"team": "a"}, "a", None),
        ({"team": "b"}, "a", "m belongs to team a; this key may replace models of team b"),
        (
            {},
            "a",
            "m belongs to team a; this key may replace those it names "
            "(`modelium keys create --model`)",
        ),
        ({"team": "a"}, "", "m belongs to no team; this key may replace models of team a"),
        ({}, None, None),
    ],
)
def test_a_key_replaces_its_own_models(
    terms: dict[str, Any], team: str | None, said: str | None
) -> None:
    known = None if team is None else model("m", team=team or None)
    key = holder(**terms).key
    if said is None:
        check_replaces(key, "m", known)
    else:
        with pytest.raises(HttpProblem) as problem:
            check_replaces(key, "m", known)
        assert problem.value.status == 403
        assert str(problem.value) == said


def test_a_path_lies_within_the_drop_zone(tmp_path: Path) -> None:
    zone = tmp_path / "in"
    zone.mkdir()
    (zone / "link").symlink_to(tmp_path)
    (zone / "loop").symlink_to(zone / "loop")
    assert _within(zone, "a/b") == zone / "a" / "b"
    assert _within(zone, str(zone / "a")) == zone / "a"
    for given in ("", ".", "..", "link/x", "/", str(tmp_path / "in2")):
        with pytest.raises(InputError, match="is outside the drop zone"):
            _within(zone, given)
    with pytest.raises(InputError, match="is not a valid path"):
        _within(zone, "a\0b")


@pytest.mark.parametrize("zone", ["link", "above/in"])
def test_a_drop_zone_behind_a_link_keeps_its_own_name(tmp_path: Path, zone: str) -> None:
    real = tmp_path / "real" / "in"
    (real / "lab").mkdir(parents=True)
    (real / "inner").symlink_to(real / "lab")
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "above").symlink_to(real.parent)
    incoming = tmp_path / zone
    for given in ("lab/m", "inner/m", str(incoming / "lab" / "m"), str(real / "lab" / "m")):
        assert _within(incoming, given) == incoming / "lab" / "m", given
    with pytest.raises(InputError, match="is outside the drop zone"):
        _within(incoming, "..")


async def test_a_body_is_limited_to_its_last_byte() -> None:
    for last, fits in ((b"", True), (b"x", False)):
        parts = [{"body": b"x" * (MAX_BODY_BYTES - 1)}, {}, {"body": b"x"}, {"body": last}]

        async def receive(parts: list[Any] = parts) -> Any:
            return parts.pop(0)

        limited = limit_body(receive)
        for _ in range(3):
            await limited()
        if fits:
            assert await limited() == {"body": b""}
        else:
            with pytest.raises(HTTPException) as raised:
                await limited()
            assert raised.value.status_code == 413


async def test_the_server_says_what_it_is_and_whether_it_is_ready(start: Start) -> None:
    ready = False
    async with start(is_ready=lambda: ready) as setup:
        assert (await setup.http.get("/v2")).json() == {
            "name": "modelium",
            "version": __version__,
            "extensions": ["binary_tensor_data"],
        }
        starting = await setup.http.get("/v2/health/ready")
        assert (starting.status_code, list(starting.json())) == (503, ["error"])
        ready = True
        assert (await setup.http.get("/v2/health/ready")).status_code == 200
        schema = (await setup.http.get("/api/v1/openapi.json")).json()
        assert all(path.startswith(("/api/v1/", "/hooks/")) for path in schema["paths"])
        for path in ("/docs", "/redoc"):
            assert (await setup.http.get(path)).status_code == 404
        wrong = await setup.http.get("/api/v1/nope")
        assert wrong.json() == {
            "error": {"reason": "not-found", "message": "GET /api/v1/nope: Not Found"}
        }


async def test_models_that_are_replaced_or_removed_are_not_listed(setup: Setup) -> None:
    gone = model("gone", removal=Removal(by="x", at=1.0))
    twin = model("twin", twin_of="m")
    setup.operations.at = Fleet(at=1.0, revision=1, models=(model("m"), gone, twin))
    listed = (await setup.http.get("/v1/models")).json()
    assert (listed["object"], [one["id"] for one in listed["data"]]) == ("list", ["m"])
    for name in ("gone", "twin"):
        refused = await setup.http.get(f"/v1/models/{name}")
        assert refused.status_code == 404
    ready = await setup.http.get("/v2/models/m/versions/1/ready")
    assert (ready.status_code, ready.json()) == (400, {"error": "m is not loaded"})


async def test_lists_have_their_default_lengths_and_orders(setup: Setup) -> None:
    setup.operations.at = fleet()
    setup.operations.happened = [Event(id=n, at=n, kind="model.ready") for n in range(1, 103)]
    events = (await setup.http.get("/api/v1/events")).json()
    assert [one["id"] for one in events] == list(range(102, 2, -1))
    for name in ("b", "a"):
        issued = await setup.http.post("/api/v1/keys", json={"name": name})
        assert issued.status_code == 201
    keys = (await setup.http.get("/api/v1/keys")).json()
    assert [one["name"] for one in keys] == ["b", "a"]
    for number in range(101):
        await setup.operations.load("gpt2")
        assert f"i{number + 1}" in setup.operations.kept
    intents = (await setup.http.get("/api/v1/intents")).json()
    assert [one["id"] for one in intents] == [f"i{n}" for n in range(101, 1, -1)]
    one = await setup.http.get("/api/v1/intents/i7?wait=0")
    assert (one.status_code, one.json()["id"]) == (200, "i7")
