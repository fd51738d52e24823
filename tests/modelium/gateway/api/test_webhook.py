"""POST /hooks/ingest."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest

from tests.modelium.gateway.api.fleets import fleet
from tests.modelium.gateway.conftest import Setup, Start

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


@pytest.mark.parametrize(
    ("terms", "path", "name", "status"),
    [
        ({"team": "other"}, "gpt2", None, 403),
        ({"team": "other"}, "x", "gpt2", 403),
        ({}, "gpt2", None, 403),
        ({}, "cold", None, 403),
        ({"team": "prod"}, "gpt2", None, 202),
        ({"team": "other"}, "new", None, 202),
        ({"models": ["gpt2"]}, "gpt2", None, 202),
        ({"models": ["other"]}, "new", None, 403),
        ({"scopes": ["admin"]}, "gpt2", None, 202),
    ],
)
async def test_an_ingest_key_replaces_what_is_its_own(
    setup: Setup, terms: dict[str, object], path: str, name: str | None, status: int
) -> None:
    setup.operations.at = fleet()
    wanted = {"name": "k", "scopes": ["ingest"], **terms}
    secret = (await setup.http.post("/api/v1/keys", json=wanted)).json()["secret"]
    answer = await setup.http.post(
        "/hooks/ingest",
        json={"path": path, "name": name},
        headers={"authorization": f"Bearer {secret}"},
    )
    assert answer.status_code == status
    assert len(setup.operations.kept) == (status == 202)
