"""`modelium ls` and `modelium explain` for drops that are no models, over a real gateway."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.modelium.cli.conftest import Run
from tests.modelium.conftest import World
from tests.samples import risky_onnx

pytestmark = pytest.mark.slow


async def refuse(world: World, name: str) -> None:
    risky_onnx(world.incoming / name, "weights.pkl")
    await world.launcher.ingest(path=str(world.incoming / name))


async def test_ls_shows_the_drops_below_the_models(world: World, run: Run) -> None:
    await world.load()
    (world.incoming / "empty").mkdir()
    await world.launcher.ingest(path=str(world.incoming / "empty"))
    for number in range(7):
        await refuse(world, f"bad-{number}")
    shown = (await run("ls")).output
    assert "tiny" in shown and "the folder is empty" in shown
    assert shown.count("rejected") == 6 and "and 2 more rejected drops" in shown
    assert [row["name"] for row in json.loads((await run("ls", "--json")).output)] == ["tiny"]
    assert (await run("ls", "--drops")).output.count("rejected") == 7
    listed = json.loads((await run("ls", "--drops", "--json")).output)
    assert [drop["name"] for drop in listed][:2] == ["empty", "bad-6"]


async def test_explain_tells_why_a_drop_was_rejected_and_what_to_do(world: World, run: Run) -> None:
    await refuse(world, "tiny")
    shown = (await run("explain", "tiny")).output
    assert "the drop tiny is rejected since" in shown
    assert "weights.pkl" in shown and str(world.rejected / "tiny") in shown
    assert "modelium approve tiny" in shown
    assert "drop.rejected" in shown
    assert (await run("explain", "no such/drop")).exception is not None


async def test_ls_without_models_says_where_to_drop_one(run: Run, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("orchestration: {incoming_directory: '/srv/[new]'}")
    assert (await run("ls")).output == "no models yet: drop a folder into /srv/[new]\n"
    assert (await run("ls", "--json")).output == "[]\n"
