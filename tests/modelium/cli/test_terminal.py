"""What a person at a terminal meets: help, narrow windows, completion, waiting."""

from __future__ import annotations

import asyncio
import json

import pytest
from rich.console import Console

from modelium.cli import tables
from modelium.cli.completion import model_names
from modelium.cli.main import main
from tests.modelium.cli.conftest import Run
from tests.modelium.conftest import World

pytestmark = pytest.mark.slow

ROW = {
    "name": "a-model-with-a-name-of-some-length",
    "version": 1,
    "state": "unloaded",
    "runtime": "llama_cpp",
    "devices": ["host/cpu"],
    "resident_bytes": 0,
    "booked_bytes": 700 * 1024**2,
    "idle_s": 30.0,
    "qps": 0.5,
    "pinned": False,
    "reason": "unloaded after one hour without a request, which is the configured idle time",
}


def printed(width: int) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(tables.models([ROW], width=width))
    return capture.get()


def test_a_terminal_of_80_columns_shows_whole_rows_and_reasons() -> None:
    text = printed(80)

    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert ROW["reason"] in " ".join(text.split())
    head, row, *_ = text.splitlines()
    assert head.split() == ["model", "state", "runtime", "memory", "idle"]
    assert row.split()[:3] == [ROW["name"], "unloaded", "llama_cpp"]


def test_a_wide_terminal_shows_every_column() -> None:
    assert printed(160).split()[:8] == [
        *("model", "state", "runtime", "device", "memory", "idle", "QPS", "reason"),
    ]


@pytest.mark.parametrize("arguments", [["ls", "--help"], ["config", "init", "--help"], ["--help"]])
def test_flags_are_shown_without_a_type(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["modelium", *arguments])
    with pytest.raises(SystemExit):
        main()

    shown = capsys.readouterr().out
    assert "--help" in shown
    assert "<bool>" not in shown


async def test_names_of_models_are_completed(world: World, run: Run) -> None:
    await world.load()

    assert await asyncio.to_thread(model_names, "ti") == ["tiny"]
    assert await asyncio.to_thread(model_names, "x") == []


def test_without_a_service_nothing_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELIUM_URL", "http://127.0.0.1:1")

    assert model_names("") == []


async def test_an_order_waits_for_its_end(world: World, run: Run) -> None:
    await world.load()

    done = await run("unload", "tiny")
    assert done.exit_code == 0, done.output
    assert "✓" in done.output and "tiny" in done.output
    again = json.loads((await run("load", "tiny", "--json")).stdout)
    assert again["state"] == "done"


async def test_an_order_that_fails_exits_with_1(world: World, run: Run) -> None:
    failed = await run("ingest", "/no/such/folder")

    assert failed.exit_code == 1
    assert "✗" in failed.output
