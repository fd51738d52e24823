"""`modelium teams`, and what `ls` and `explain` say of owners, over a real gateway."""

from __future__ import annotations

import json
from dataclasses import replace

from modelium.config import Config
from tests.modelium.cli.conftest import Run
from tests.modelium.conftest import World
from tests.samples import tiny_onnx


def declare(world: World) -> None:
    fields = world.services.config.model_dump(exclude_unset=True)
    team = {"memory_quota_gib": 2, "gpu_seconds_per_day": 50, "weight": 3}
    world.services.configure(Config.model_validate({**fields, "teams": {"lab": team}}))
    world.services.repository.zone.make()
    world.services = replace(world.services)


async def test_without_teams_there_is_nothing_to_show(world: World, run: Run) -> None:
    assert (await run("teams")).output == "no teams\n"
    await world.load()
    assert "team" not in (await run("ls")).output


async def test_teams_are_shown_with_their_quotas(world: World, run: Run) -> None:
    tiny_onnx(world.incoming / "other", weight=2.0)
    await world.launcher.ingest(path=str(world.incoming / "other"), team="guest")
    await world.settled("other", "ready")
    declare(world)
    tiny_onnx(world.incoming / "lab" / "tiny")
    (world.incoming / "lab" / "tiny" / "modelium.toml").write_text('priority = "high"\nx = 1\n')
    await world.launcher.ingest(path=str(world.incoming / "lab" / "tiny"))
    await world.settled("tiny", "ready")
    world.store.team_usage.add({"lab": 12.4})
    first, *rest = [line.split() for line in (await run("teams")).output.splitlines()]
    lines = [[*first, *rest[0]], *rest[1:]]
    assert lines[0] == [
        *("GPU-seconds", "team"),
        "weight",
        "models",
        "loaded",
        "queued",
        "memory",
        *("in", "24", "h"),
    ]
    assert lines[1][:5] == ["guest", "(not", "declared)", "1", "1"]
    assert lines[2][:5] == ["lab", "3", "1", "1", "0"]
    assert " ".join(lines[2][5:]).endswith("of 2.0 GiB 12 of 50")
    guest, lab = json.loads((await run("teams", "--json")).output)
    assert (guest["declared"], lab["gpu_seconds"], lab["gpu_seconds_quota"]) == (False, 12.4, 50.0)
    listed = (await run("ls")).output
    assert listed.split()[:3] == ["model", "team", "state"]
    assert "lab" in listed and "guest" in listed
    explained = (await run("explain", "tiny")).output
    assert "team lab holds" in explained
    assert "its note: priority high: not granted: its ceiling is medium" in explained
    assert "its note: unknown keys: 'x'; known keys are team, priority" in explained
