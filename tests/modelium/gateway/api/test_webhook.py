"""POST /hooks/ingest."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable

import pytest

from modelium.gateway.api import signatures
from modelium.gateway.api.signatures import Signatures
from modelium.gateway.problems import HttpProblem
from tests.modelium.gateway.api.fleets import fleet
from tests.modelium.gateway.conftest import Setup, Start

pytestmark = pytest.mark.slow

# --- webhook ---------------------------------------------------------------------------------


async def test_hook_takes_what_lies_in_the_drop_zone(setup: Setup) -> None:
    for given in ("gpt2", str(setup.incoming / "gpt2")):
        answer = await setup.http.post("/hooks/ingest", json={"path": given, "team": "prod"})
        assert answer.status_code == 202
        assert answer.json()["parameters"]["path"] == str(setup.incoming / "gpt2")


@pytest.mark.parametrize("given", ["/etc", "../outside", "a/../..", ".", "", "link", "a\x00b"])
async def test_hook_refuses_what_lies_elsewhere(setup: Setup, given: str) -> None:
    (setup.incoming / "link").symlink_to("/etc")
    answer = await setup.http.post("/hooks/ingest", json={"path": given})
    assert answer.status_code == 400
    assert answer.json()["error"]["reason"] == "bad-input"
    assert setup.operations.kept == {}


BODY = json.dumps({"path": "gpt2"}).encode()


def signed(body: bytes, at: str, *, secret: bytes = b"s3cret") -> dict[str, str]:
    """The headers of a signed request."""
    right = hmac.new(secret, at.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {"x-modelium-timestamp": at, "x-modelium-signature": f"sha256={right}"}


async def hook(setup: Setup, headers: dict[str, str], body: bytes = BODY) -> int:
    return (await setup.http.post("/hooks/ingest", content=body, headers=headers)).status_code


async def test_hook_with_a_secret_wants_a_signature_of_time_and_body(start: Start) -> None:
    at = str(int(time.time()))
    right = signed(BODY, at)
    name, value = "x-modelium-signature", right["x-modelium-signature"]
    plain = "sha256=" + hmac.new(b"s3cret", BODY, hashlib.sha256).hexdigest()
    async with start(webhook_secret="s3cret") as setup:
        for headers in (
            {},
            {name: value},
            {name: plain},
            {**right, name: ""},
            {**right, name: "sha256="},
            {**right, name: plain},
            {**right, name: value[:-1] + "x"},
            {**right, name: value.removeprefix("sha256=")},
            {**right, "x-modelium-timestamp": str(int(at) + 1)},
            signed(BODY, at, secret=b"another"),
        ):
            assert await hook(setup, headers) == 401
        assert await hook(setup, right, BODY + b" ") == 401
        assert setup.operations.kept == {}
        assert await hook(setup, right) == 202


@pytest.mark.parametrize("given", ["", "x", "-1", "1e9", "1.5", " 1", "9" * 13, "\u0661"])
def test_a_time_that_is_no_number_is_refused_before_it_is_compared(given: str) -> None:
    with pytest.raises(HttpProblem) as problem:
        ours(lambda: 1.0).check(BODY, signature="sha256=", timestamp=given)
    assert (problem.value.status, problem.value.reason) == (401, "no-time")


@pytest.mark.parametrize(
    ("now", "status"), [(899, 401), (900, None), (1000, None), (1100, None), (1101, 401)]
)
def test_a_request_is_accepted_near_its_time(now: float, status: int | None) -> None:
    assert checked(ours(lambda: now), "1000") == status


def test_a_request_is_accepted_once_within_its_window() -> None:
    now = 1000.0
    hooks = ours(lambda: now)
    assert checked(hooks, "1050") is None
    assert checked(hooks, "1050", upper=True) == 409
    assert checked(hooks, "1051") is None
    now = 1150.0
    assert checked(hooks, "1050") == 409
    now = 1151.0
    assert checked(hooks, "1050") == 401


def test_memory_of_requests_is_bounded_and_none_is_forgotten_early(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signatures, "MOST_SEEN", 3)
    now = 1000.0
    hooks = ours(lambda: now)
    assert [checked(hooks, str(at)) for at in (1000, 1001, 1002)] == [None] * 3
    assert checked(hooks, "1003") == 429
    assert checked(hooks, "1000") == 409
    now = 1101.5
    assert checked(hooks, "1003") is None


def ours(now: Callable[[], float]) -> Signatures:
    return Signatures(secret="s3cret", window_s=100, now=now)


def checked(hooks: Signatures, at: str, *, upper: bool = False) -> int | None:
    """The status of a refusal of a request that is signed at ``at``."""
    signature = signed(BODY, at)["x-modelium-signature"]
    try:
        hooks.check(BODY, signature=signature.upper() if upper else signature, timestamp=at)
    except HttpProblem as exc:
        return exc.status
    return None


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
        ({"models": ["gpt2"], "team": "other"}, "gpt2", None, 403),
        ({"models": ["gpt2"], "team": "prod"}, "gpt2", None, 202),
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
