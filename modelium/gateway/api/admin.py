"""The admin API for operators and the CLI: a thin layer over `Operations`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from modelium.control.operations import Operations
from modelium.control.reload import Reloaded
from modelium.errors import InputError
from modelium.gateway.access.keyring import KeyHolder, Keyring, key_holder
from modelium.gateway.api import nodes, versions
from modelium.gateway.api.teams import (
    asker,
    bound,
    check_acts,
    check_replaces,
    check_revokes,
    issuable,
    only_operators,
    team_of,
)
from modelium.gateway.api.views import (
    DeviceRow,
    ModelRow,
    decision_detail,
    device_rows,
    model_detail,
    model_rows,
)
from modelium.intake.names import model_name
from modelium.intake.object_storage import is_url
from modelium.models import Drop, Event, Intent, Plan, Priority, Trigger
from modelium.models.api_keys import ApiKey, IssuedKey, KeyTerms
from modelium.models.teams import TeamReport
from modelium.outcomes.report import BrainReport
from modelium.ports import Clock

POLL_S = 0.25
"""Interval at which a long poll reads its intent: loads take seconds."""

DAY_S = 86_400.0

MAX_WAIT_S = 600.0
"""Limit for ``?wait=``; clients that want to wait longer repeat the request."""


class Body(BaseModel):
    """The JSON body of a request; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class Pin(Body):
    """Whether a model may be evicted."""

    pinned: bool


class Approval(Body):
    """What to approve; empty: what the drop was refused for."""

    what: tuple[Literal["remote-code", "pickle"], ...] = ()
    team: str | None = Field(
        None, description="Whose drop, where several teams have one; empty: that of no team."
    )


class Ingest(Body):
    """The model folder or file to ingest."""

    path: str = Field(min_length=1, description="Absolute path on the service's machine, or a URL.")
    name: str | None = None
    team: str | None = None
    priority_ceiling: Priority | None = None

    def on_behalf_of(self, holder: KeyHolder | None) -> Ingest:
        """Return this request as ``holder`` may make it: for its team, at most its priority.

        Raises:
            HttpProblem: 403, it names a team that is not the key's.
        """
        if holder is None:
            return self
        team = bound(holder, self.team, to="ingest for")
        classes = [c for c in (self.priority_ceiling, holder.priority) if c is not None]
        ceiling = max(classes, key=lambda p: p.rank, default=None)
        return self.model_copy(update={"team": team, "priority_ceiling": ceiling})

    async def permitted(
        self, holder: KeyHolder | None, path: Path, operations: Operations
    ) -> Ingest:
        """Return this request where ``holder`` may replace the model that ``path`` becomes.

        Raises:
            HttpProblem: 403, the model is not the key's to replace.
        """
        if holder is None or (holder.has("admin") and holder.key.team is None):
            return self
        name = self.name or str(await asyncio.to_thread(model_name, path))
        known = (await operations.fleet()).models_by_name.get(name)
        check_replaces(holder.key, name, known)
        return self.model_copy(update={"name": name})


class Subject(Body):
    """The model in question."""

    model: str


Wait = Annotated[
    float,
    Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait for the outcome."),
]
Limit = Annotated[int, Query(ge=1, le=1000)]
Seconds = Annotated[float, Query(gt=0, le=3650 * DAY_S)]
After = Annotated[int, Query(ge=0, lt=2**63)]


def router(*, operations: Operations, keys: Keyring, clock: Clock) -> APIRouter:
    """Return the routes under ``/api/v1``."""
    api = APIRouter(prefix="/api/v1", dependencies=[Depends(check_acts(operations))])

    async def wait_for(intent: Intent, wait: float) -> Intent:
        until = clock.monotonic() + wait
        while intent.state == "pending" and (left := until - clock.monotonic()) > 0:
            await clock.sleep(min(POLL_S, left))
            intent = await operations.intent(intent.id)
        return intent

    _add_queries(api, operations)
    _add_decisions(api, operations)
    _add_models(api, operations, wait_for)
    versions.add(api, operations.versions, wait_for)
    nodes.add(api, operations.nodes)
    _add_intents(api, operations, wait_for)
    _add_keys(api, operations, keys, clock)
    return api


WaitFor = Callable[[Intent, float], Awaitable[Intent]]


def _add_queries(api: APIRouter, operations: Operations) -> None:
    """Add the routes of the service as a whole."""

    @api.get("/models")
    async def models() -> list[ModelRow]:
        return model_rows(await operations.fleet())

    @api.get("/drops")
    async def drops() -> list[Drop]:
        return await operations.drops()

    @api.get("/teams")
    async def teams() -> list[TeamReport]:
        return await operations.teams()

    @api.get("/devices")
    async def devices() -> list[DeviceRow]:
        return device_rows(await operations.fleet())

    @api.get("/events")
    async def events(limit: Limit = 100, after: After = 0) -> list[Event]:
        return list(await operations.events(limit=limit, after=after))

    @api.get("/status")
    async def status() -> dict[str, Any]:
        return await operations.status()

    @api.post("/reload", dependencies=[only_operators("reload the configuration")])
    async def reload() -> Reloaded:
        return await operations.reload()

    @api.post("/plan")
    async def plan(body: Subject) -> Plan:
        return await operations.plan(body.model)


def _add_decisions(api: APIRouter, operations: Operations) -> None:
    """Add the routes of decisions."""

    @api.get("/decisions")
    async def decisions(limit: Limit = 50, advised: bool = False) -> list[dict[str, Any]]:
        found = await operations.decisions(limit=limit, advised=advised)
        return [decision_detail(made) for made in found]

    @api.get("/brain/report")
    async def report(seconds: Seconds = 7 * DAY_S, trigger: Trigger | None = None) -> BrainReport:
        return await operations.report(seconds=seconds, trigger=trigger)

    @api.get("/decisions/{decision_id}")
    async def decision(decision_id: str) -> dict[str, Any]:
        return decision_detail(await operations.decision(decision_id))

    @api.post("/decisions/{decision_id}/replay", dependencies=[only_operators("ask the LLM again")])
    async def replay(decision_id: str) -> dict[str, Any]:
        found = await operations.rethink(decision_id)
        return {
            "decision": decision_detail(found.decision),
            "plan": found.plan.model_dump(mode="json"),
            "trace": found.trace,
        }


def _add_models(api: APIRouter, operations: Operations, wait_for: WaitFor) -> None:
    """Add the routes of one model."""

    @api.get("/models/{model}")
    async def model(model: str) -> dict[str, Any]:
        return model_detail(await operations.model(model))

    @api.get("/models/{model}/explain")
    async def explain(model: str) -> dict[str, Any]:
        explanation = await operations.explain(model)
        return {
            "model": model_detail(explanation.model) if explanation.model else None,
            "drops": [drop.model_dump(mode="json") for drop in explanation.drops],
            "decisions": [decision_detail(d) for d in explanation.decisions],
            "events": [e.model_dump(mode="json") for e in explanation.events],
            "owner": list(explanation.owner),
            "outcomes": [
                {**o.model_dump(mode="json"), "summary": o.summary} for o in explanation.outcomes
            ],
        }

    @api.post("/models/{model}/load", status_code=202)
    async def load(model: str, request: Request, wait: Wait = 0.0) -> Intent:
        return await wait_for(await operations.load(model, trigger=asker(request)), wait)

    @api.post("/models/{model}/retry", status_code=202)
    async def retry(model: str, request: Request, wait: Wait = 0.0) -> Intent:
        return await wait_for(await operations.retry(model, trigger=asker(request)), wait)

    @api.post("/models/{model}/unload", status_code=202)
    async def unload(model: str, wait: Wait = 0.0) -> Intent:
        return await wait_for(await operations.unload(model), wait)

    @api.put("/models/{model}/pin", dependencies=[only_operators("pin models")])
    async def pin(model: str, body: Pin) -> dict[str, Any]:
        return model_detail(await operations.pin(model, body.pinned))

    @api.post("/models/{drop}/approve", status_code=202)
    async def approve(drop: str, body: Approval, request: Request, wait: Wait = 0.0) -> Intent:
        team = bound(key_holder(request.scope), body.team, to="approve drops of")
        return await wait_for(await operations.approve(drop, body.what, team=team), wait)


def _add_intents(api: APIRouter, operations: Operations, wait_for: WaitFor) -> None:
    """Add ingest, and the routes of intents."""

    @api.post("/ingest", status_code=202)
    async def ingest(body: Ingest, request: Request, wait: Wait = 0.0) -> Intent:
        if not is_url(body.path) and not Path(body.path).is_absolute():
            raise InputError(f"path: {body.path!r} is relative; use an absolute path")
        holder = key_holder(request.scope)
        body = await body.on_behalf_of(holder).permitted(holder, Path(body.path), operations)
        intent = await operations.ingest(
            path=body.path,
            name=body.name,
            team=body.team,
            priority_ceiling=body.priority_ceiling,
            bound=team_of(holder),
        )
        return await wait_for(intent, wait)

    @api.get("/intents")
    async def intents(limit: Limit = 100) -> list[Intent]:
        return list(await operations.intents(limit=limit))

    @api.get("/intents/{intent_id}")
    async def intent(intent_id: str, wait: Wait = 0.0) -> Intent:
        return await wait_for(await operations.intent(intent_id), wait)


def _add_keys(api: APIRouter, operations: Operations, ring: Keyring, clock: Clock) -> None:
    """Add the routes of API keys; changes take effect at once."""

    @api.get("/keys")
    async def keys() -> list[ApiKey]:
        return sorted((await operations.keys()).values(), key=lambda key: key.created_at)

    @api.post("/keys", status_code=201)
    async def issue(body: KeyTerms, request: Request) -> IssuedKey:
        if body.expires_at is not None and body.expires_at <= clock.time():
            raise InputError("expires_at: this time is past; give seconds since 1970")
        issued = await operations.issue_key(issuable(body, key_holder(request.scope)))
        await ring.refresh()
        return issued

    @api.delete("/keys/{key_id}")
    async def revoke(key_id: str, request: Request) -> ApiKey:
        check_revokes(key_holder(request.scope), key_id, (await operations.keys()).values())
        revoked = await operations.revoke_key(key_id)
        await ring.refresh()
        return revoked
