"""The status page."""

from __future__ import annotations

from modelium.models import (
    Node,
    RuntimeName,
    RuntimeStatus,
)
from tests.modelium.gateway.api.fleets import GPU, drop, fleet
from tests.modelium.gateway.conftest import Setup


async def test_page_shows_models_devices_reasons_and_links(setup: Setup) -> None:
    setup.operations.at = fleet()
    page = await setup.http.get("/")
    for shown in ("gpt2", "ready", "fits on GPU 2", "30.0 GiB / 80.0 GiB", "1.50", "vllm"):
        assert shown in page.text
    assert 'href="http://127.0.0.1:4200"' in page.text
    assert 'href="/metrics"' in page.text
    assert "http-equiv" in page.text


async def test_page_says_where_a_model_is_and_which_machines_are_silent(setup: Setup) -> None:
    nodes = (Node(name="n1"), Node(name="n2", silent_s=42.0))
    setup.operations.at = fleet().model_copy(update={"nodes": nodes})
    page = (await setup.http.get("/")).text
    assert "<td>2 on n1</td>" in page
    assert "n2 is silent</span> for 42 s" in page
    setup.operations.at = fleet()
    assert "on n1" not in (await setup.http.get("/")).text


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


async def test_a_runtime_that_starts_is_not_shown_as_down(setup: Setup) -> None:
    status = RuntimeStatus(name=RuntimeName.RAY_SERVE, enabled=True, healthy=False, starting=True)
    setup.operations.at = fleet().model_copy(update={"runtimes": (status,)})
    page = (await setup.http.get("/")).text
    assert '<span class="state loading">ray_serve is starting</span>' in page
    assert "is down" not in page


async def test_page_shows_notices_escaped(setup: Setup) -> None:
    setup.operations.noticed = ["idle evictions are paused <since> noon"]
    page = await setup.http.get("/")
    assert "idle evictions are paused &lt;since&gt; noon" in page.text


async def test_page_shows_drops_that_are_no_models(setup: Setup) -> None:
    assert "Drops" not in (await setup.http.get("/")).text
    evil = drop(name="<script>", state="rejected", reason="<script>")
    setup.operations.dropped = [drop(), *[evil] * 30]
    page = (await setup.http.get("/")).text
    assert "half.gguf is empty" in page and 'class="state incomplete"' in page
    assert "<script" not in page
    assert page.count('class="state rejected"') == 20


async def test_page_of_an_empty_fleet_says_what_to_do(setup: Setup) -> None:
    assert "Put a model folder into the drop zone" in (await setup.http.get("/")).text


async def test_the_page_has_the_teams_of_the_service(setup: Setup) -> None:
    page = (await setup.http.get("/")).text
    assert "<h2>Teams</h2>" in page and "<strong>research</strong></td>" in page
