"""Rejected drops as the folder of rejected drops describes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modelium.intake.rejects import team_in
from modelium.intake.repository import ModelRepository
from modelium.models import Drop, DropState


def rejected(repository: ModelRepository) -> list[Drop]:
    """Return the rejected drops, the newest first. Blocks on the disk."""
    found = [_drop(folder, reason) for folder, reason in repository.rejected_drops()]
    return sorted(found, key=lambda drop: -drop.since)


def _drop(folder: Path, reason: Mapping[str, object]) -> Drop:
    at = reason.get("at")
    return Drop(
        name=folder.name,
        model=str(reason.get("model") or folder.name),
        state=DropState.REJECTED,
        path=str(folder),
        since=at if isinstance(at, int | float) else 0.0,
        rule=str(reason.get("reason") or ""),
        reason=str(reason.get("message") or ""),
        approvable=bool(reason.get("approvable")),
        digest=str(reason.get("digest") or ""),
        team=team_in(reason),
    )
