"""The admin API's routes about versions and files: removal, rollback, the trash."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request

from modelium.control.versions import VersionOperations
from modelium.gateway.access.keyring import key_holder
from modelium.gateway.api.teams import team_of
from modelium.models import Intent

WaitFor = Callable[[Intent, float], Awaitable[Intent]]

Wait = Annotated[float, Query(ge=0, le=600, description="Seconds to wait for the outcome.")]
Version = Annotated[int, Path(ge=1, lt=2**31)]
Target = Annotated[int | None, Query(ge=1, lt=2**31)]
Purge = Annotated[bool, Query(description="Delete the files instead of keeping them in the trash.")]
Force = Annotated[
    bool, Query(description="Also where it is pinned, always loaded, or named by an alias.")
]


def add(api: APIRouter, versions: VersionOperations, wait_for: WaitFor) -> None:
    """Add the routes to ``api``."""

    @api.delete("/models/{model}", status_code=202)
    async def remove(
        model: str, request: Request, purge: Purge = False, force: Force = False, wait: Wait = 0.0
    ) -> Intent:
        intent = await versions.remove(model, by=_who(request), purge=purge, force=force)
        return await wait_for(intent, wait)

    @api.delete("/models/{model}/versions/{version}", status_code=202)
    async def remove_version(
        model: str,
        version: Version,
        request: Request,
        purge: Purge = False,
        force: Force = False,
        wait: Wait = 0.0,
    ) -> Intent:
        by = _who(request)
        intent = await versions.remove_version(model, version, by=by, purge=purge, force=force)
        return await wait_for(intent, wait)

    @api.get("/models/{model}/versions")
    async def of(model: str) -> list[dict[str, Any]]:
        return [version.model_dump(mode="json") for version in await versions.of(model)]

    @api.post("/models/{model}/rollback", status_code=202)
    async def rollback(
        model: str,
        request: Request,
        version: Target = None,
        wait: Wait = 0.0,
    ) -> Intent:
        return await wait_for(await versions.rollback(model, version, by=_who(request)), wait)

    @api.get("/trash")
    async def trash() -> list[dict[str, Any]]:
        return [
            {
                "name": entry.name,
                "model": entry.model,
                "version": entry.version,
                "at": entry.at,
                "by": entry.by,
                "team": entry.team,
                "path": str(entry.folder),
            }
            for entry in await versions.trash()
        ]

    @api.post("/trash/{name}/restore", status_code=202)
    async def restore(name: str, request: Request, wait: Wait = 0.0) -> Intent:
        team = team_of(key_holder(request.scope))
        return await wait_for(await versions.restore(name, team=team), wait)


def _who(request: Request) -> str:
    """Return who asks, for the record: an API key by its name, else the operator."""
    holder = key_holder(request.scope)
    return f"the key {holder.key.name}" if holder is not None else "the operator"
