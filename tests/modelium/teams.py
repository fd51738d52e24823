"""A world with teams, and what they drop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from modelium.config import Config
from modelium.models import Report
from tests.modelium.conftest import World
from tests.samples import risky_onnx, tiny_onnx


def declare(world: World, **config: Any) -> None:
    """Have the configuration declare the teams lab and prod, besides what ``config`` says."""
    fields = world.services.config.model_dump(exclude_unset=True)
    teams = {"lab": {}, "prod": {"priority_ceiling": "high"}} | config.pop("teams", {})
    changed = Config.model_validate({**fields, "teams": teams, **config})
    world.services = replace(world.services)
    world.services.configure(changed)
    world.services.repository.zone.make()


async def drop(
    world: World, where: str, *, note: str | None = None, weight: float = 1.0, **given: Any
) -> Report:
    """Put a model at ``where`` in the drop zone, with a ``note`` beside it, and ingest it."""
    folder = world.incoming / where
    tiny_onnx(folder, weight=weight)
    if note is not None:
        (folder / "modelium.toml").write_text(note)
    return await world.launcher.ingest(path=str(folder), **given)


async def refused(world: World, where: str, *, weight: float = 1.0, **given: Any) -> Report:
    """Put a model with a pickle at ``where`` in the drop zone, and have it refused."""
    folder = world.incoming / where
    risky_onnx(folder, "weights.pkl", weight=weight)
    report = await world.launcher.ingest(path=str(folder), **given)
    assert (report.outcome, report.details["rule"]) == ("rejected", "pickle")
    return report
