"""What clients may call models: aliases and versions."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from modelium.gateway.proxy.names import ModelReference, Names
from modelium.models import Fleet
from tests.fakes.fleets import model
from tests.fakes.upstream import Upstream
from tests.modelium.gateway.conftest import Setup, Start, until

ALIASES = {"gpt-4o": "llama", "org/stable": "llama:2"}


async def chat(setup: Setup, name: str) -> httpx.Response:
    return await setup.http.post("/v1/chat/completions", json={"model": name, "messages": []})


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ("llama", ModelReference(model="llama")),
        ("llama:2", ModelReference(model="llama", version=2)),
        ("gpt-4o", ModelReference(model="llama")),
        ("org/stable", ModelReference(model="llama", version=2)),
        ("gpt-4o:2", ModelReference(model="gpt-4o", version=2)),
        ("llama:", ModelReference(model="llama:")),
        ("llama:latest", ModelReference(model="llama:latest")),
        ("llama:²", ModelReference(model="llama:²")),
        ("llama:" + "9" * 5000, ModelReference(model="llama:" + "9" * 5000)),
    ],
)
def test_names_resolve(written: str, named: ModelReference) -> None:
    assert Names(aliases=ALIASES).resolve(written) == named


async def test_an_alias_reaches_its_model_and_counts_as_it(start: Start, engine: Upstream) -> None:
    async with start(aliases=ALIASES) as setup:
        setup.board.open("llama", engine.address("llama", "openai", "kserve"), version=2)
        for name in ALIASES:
            assert (await chat(setup, name)).status_code == 200
        inferred = await setup.http.get("/v2/models/gpt-4o")
        assert inferred.json()["name"] == "llama"
        assert (await setup.http.get("/v2/models/gpt-4o/ready")).status_code == 200
        assert (await setup.http.post("/models/gpt-4o/v1/completions", json={})).status_code == 200
        assert [seen.json["model"] for seen in engine.seen[:2]] == ["llama", "llama"]
        assert setup.board.traffic.snapshot().keys() == {"llama"}


async def test_aliases_are_listed_with_what_they_stand_for(start: Start) -> None:
    async with start(aliases={**ALIASES, "ghost": "not-there"}) as setup:
        setup.operations.at = Fleet(at=1.0, revision=1, models=(model("llama"),))
        listed = (await setup.http.get("/v1/models")).json()["data"]
        assert [(entry["id"], entry.get("alias_of")) for entry in listed] == [
            ("llama", None),
            ("gpt-4o", "llama"),
            ("org/stable", "llama"),
        ]
        assert (await setup.http.get("/v1/models/org/stable")).json()["alias_of"] == "llama"
        assert (await setup.http.get("/v1/models/ghost")).status_code == 404


async def test_the_version_that_is_loaded_answers_and_another_is_a_404(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.know({"llama": 2})
    setup.board.open("llama", engine.address("llama"), version=2)
    assert (await chat(setup, "llama:2")).status_code == 200
    for name in ("llama:1", "llama:3"):
        refused = await chat(setup, name)
        assert refused.status_code == 404
        assert "version 2 is" in refused.json()["error"]["message"]
    path = "/models/llama:2/v1/chat/completions"
    assert (await setup.http.post(path, json={})).status_code == 200


async def test_a_version_that_is_about_to_replace_the_loaded_one_is_a_503(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.know({"llama": 2})
    setup.board.open("llama", engine.address("llama"), version=1)
    assert (await chat(setup, "llama:1")).status_code == 200
    assert (await chat(setup, "llama")).status_code == 200
    soon = await chat(setup, "llama:2")
    assert soon.status_code == 503
    assert "retry-after" in soon.headers


async def test_who_waits_for_a_version_gets_no_other(setup: Setup, engine: Upstream) -> None:
    setup.board.know({"llama": 1})
    waiting = [asyncio.create_task(chat(setup, name)) for name in ("llama:1", "llama")]
    await until(lambda: setup.board.traffic.pending("llama") == 2)
    assert (await chat(setup, "llama:2")).status_code == 404
    setup.board.know({"llama": 2})
    setup.board.open("llama", engine.address("llama"), version=2)
    pinned, either = await asyncio.gather(*waiting)
    assert (pinned.status_code, either.status_code) == (404, 200)
