"""Who may use the gateway."""

from __future__ import annotations

import base64

import pytest

from tests.modelium.gateway.conftest import Setup, Start

pytestmark = pytest.mark.slow

ROUTES = [
    "/",
    "/v1/models",
    "/metrics",
    "/api/v1/models",
    "/api/v1/drops",
    "/v2",
    "/v2/health/ready",
]
TOKEN = "a-token-that-is-long-enough-for-anybody"


@pytest.mark.parametrize("path", ROUTES)
async def test_with_a_token_every_route_wants_it(start: Start, path: str) -> None:
    async with start(token=TOKEN) as setup:
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": f"Basic {TOKEN}"},
            {"authorization": TOKEN},
        ):
            refused = await setup.http.get(path, headers=headers)
            assert refused.status_code == 401
            assert "Bearer" in refused.headers["www-authenticate"]
        allowed = await setup.http.get(path, headers={"authorization": f"Bearer {TOKEN}"})
        assert allowed.status_code == 200


async def test_liveness_needs_no_token(start: Start) -> None:
    async with start(token=TOKEN) as setup:
        for path in ("/healthz", "/v2/health/live"):
            assert (await setup.http.get(path)).status_code == 200


async def test_browser_may_give_the_token_as_a_password_but_only_to_look(start: Start) -> None:
    basic = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
    headers = {"authorization": f"Basic {basic}"}
    async with start(token=TOKEN) as setup:
        assert (await setup.http.get("/", headers=headers)).status_code == 200
        refused = await setup.http.post("/api/v1/models/m/load", headers=headers)
        assert refused.status_code == 401


async def test_401_has_the_shape_of_each_api(start: Start) -> None:
    async with start(token=TOKEN) as setup:
        openai = (await setup.http.get("/v1/models")).json()
        kserve = (await setup.http.get("/v2")).json()
        admin = (await setup.http.get("/api/v1/models")).json()
    assert openai["error"]["type"] == "authentication_error"
    assert isinstance(kserve["error"], str)
    assert admin["error"]["reason"] == "unauthorized"


@pytest.mark.parametrize("path", ROUTES)
async def test_host_that_is_not_this_machine_is_refused_without_a_token(
    setup: Setup, path: str
) -> None:
    """A site that points its own name at 127.0.0.1 (DNS rebinding) gets nothing."""
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[", ""):
        assert (await setup.http.get(path, headers={"host": host})).status_code == 403
    for host in ("localhost", "127.0.0.1:1", "[::1]:8000", "127.9.9.9"):
        assert (await setup.http.get(path, headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"origin": "http://localhost:3000"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/models/m/unload"),
        ("POST", "/api/v1/reload"),
        ("GET", "/api/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/hooks/ingest"),
    ],
)
async def test_pages_of_other_sites_are_refused(
    setup: Setup, headers: dict[str, str], method: str, path: str
) -> None:
    answer = await setup.http.request(method, path, headers=headers)
    assert answer.status_code == 403
    assert setup.operations.kept == {}


async def test_own_page_and_links_to_the_status_page_are_served(setup: Setup) -> None:
    own = {"origin": setup.gateway.url, "sec-fetch-site": "same-origin"}
    assert (await setup.http.get("/api/v1/models", headers=own)).status_code == 200
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert (await setup.http.get("/", headers=link)).status_code == 200
