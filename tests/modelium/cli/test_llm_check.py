"""`modelium doctor` asks the brain's LLM one short question, and says what to mend."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from modelium.cli.findings import Finding
from modelium.cli.llm_check import llm
from modelium.config import Config
from tests.fakes.llm import endpoint
from tests.fakes.serving import served

KEY = "MODELIUM_BRAIN_API_KEY"


def findings(folder: Path, **brain: Any) -> list[Finding]:
    folders = {
        "model_repository": str(folder / "repository"),
        "incoming_directory": str(folder / "incoming"),
    }
    return list(llm(Config.model_validate({"orchestration": folders, "brain": brain})))


async def asked(folder: Path, port: int, **brain: Any) -> Finding:
    given = {"base_url": f"http://127.0.0.1:{port}/v1", "model": "judge", **brain}
    (found,) = await asyncio.to_thread(lambda: findings(folder, **given))
    return found


def test_without_an_llm_nothing_is_asked(tmp_path: Path) -> None:
    assert findings(tmp_path) == []


def test_an_llm_that_modelium_serves_is_not_asked(tmp_path: Path) -> None:
    assert findings(tmp_path, base_url="http://127.0.0.1:8000/v1", model="judge") == []


async def test_an_llm_that_answers_is_named(tmp_path: Path) -> None:
    async with endpoint(lambda body: {}) as fake:
        found = await asked(tmp_path, fake.port, base_url=fake.base_url + "/")
    detail = f"judge answers at 127.0.0.1:{fake.port}"
    assert found == Finding(what="LLM", ok=True, detail=detail)
    assert [(p["model"], p["max_completion_tokens"]) for p in fake.probes] == [("judge", 16)]
    assert fake.seen == [] and "authorization" not in fake.headers[0]


async def test_the_key_is_sent_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "sk-secret")
    heads: list[dict[bytes, bytes]] = []

    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        heads.append(dict(scope["headers"]))
        await _answer(send, 401, b"bad key\n sk-secret\x1b[31m!" + b"x" * 300)

    async with served(refusing) as port:
        found = await asked(tmp_path, port)
    assert heads[0][b"authorization"] == b"Bearer sk-secret"
    said = "bad key ***[31m!" + "x" * 184
    detail = (
        f"127.0.0.1:{port} refuses a question with status 401: {said}; set its API key in {KEY}"
    )
    assert found == Finding(what="LLM", ok=False, detail=detail)


@pytest.mark.parametrize(
    ("status", "said", "detail"),
    [
        (403, b"no", f"refuses a question with status 403: no; set its API key in {KEY}"),
        (
            404,
            b"no model `judge`",
            "refuses a question with status 404: no model `judge`; "
            "check brain.base_url, which usually ends in /v1, and brain.model",
        ),
        (500, b"oops", "refuses a question with status 500: oops"),
        (200, b"<html>", "has no chat completions; check brain.base_url"),
        (200, b"[1]", "has no chat completions; check brain.base_url"),
        (200, b'{"choices": []}', "has no chat completions; check brain.base_url"),
    ],
)
async def test_what_is_wrong_is_said(tmp_path: Path, status: int, said: bytes, detail: str) -> None:
    async def server(scope: Any, receive: Any, send: Any) -> None:
        await _answer(send, status, said)

    async with served(server) as port:
        found = await asked(tmp_path, port, base_url=f"http://me:pw@127.0.0.1:{port}/v1")
    begin = f"127.0.0.1:{port} " if status != 200 else f"the server at 127.0.0.1:{port} "
    assert found == Finding(what="LLM", ok=False, detail=begin + detail)


async def test_an_llm_that_is_slower_than_a_decision_may_be_is_told(tmp_path: Path) -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async with served(silent) as port:
        found = await asked(tmp_path, port, time_budget_seconds=0.2)
    detail = (
        f"127.0.0.1:{port} did not answer within brain.time_budget_seconds (0.2 s), so the rules "
        "would decide"
    )
    assert found == Finding(what="LLM", ok=False, detail=detail)


async def test_an_address_without_a_server_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        found = await asked(tmp_path, port)
    assert (found.what, found.ok) == ("LLM", False)
    assert found.detail.startswith(f"no answer at 127.0.0.1:{port}: ")


async def _answer(send: Any, status: int, body: bytes) -> None:
    head = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
