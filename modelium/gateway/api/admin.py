"""The admin API: what operators and the CLI ask for, thin over `Operations`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from modelium.errors import InputError
from modelium.gateway.access.keyring import Holder, KeyRing, holder_of
from modelium.gateway.api.views import (
    DeviceRow,
    ModelRow,
    decision_detail,
    device_rows,
    model_detail,
    model_rows,
)
from modelium.gateway.problems import HttpProblem
from modelium.models import Decision, Event, Fleet, Intent, Model, Plan, Priority
from modelium.models.api_keys import ApiKey, IssuedKey, KeyTerms
from modelium.ports import Clock

POLL_S = 0.25
"""How often a long poll looks at its intent: loads take seconds."""

LONGEST_WAIT_S = 600.0
"""Bound on ``?wait=``; a client that wants more asks again."""


class Explanation(Protocol):
    """Why a model is where it is."""

    @property
    def model(self) -> Model:
        """The model now."""

    @property
    def decisions(self) -> Sequence[Decision]:
        """Those that touched it, newest first."""

    @property
    def events(self) -> Sequence[Event]:
        """What happened to it, newest first."""


class Rethought(Protocol):
    """An earlier decision, and what the brain makes of the same facts now."""

    @property
    def decision(self) -> Decision:
        """As it was made."""

    @property
    def plan(self) -> Plan:
        """As it would be made now."""

    @property
    def trace(self) -> dict[str, Any]:
        """How that came about."""


class Operations(Protocol):
    """What the admin API asks of the service. All raise from `modelium.errors`."""

    async def fleet(self) -> Fleet:
        """Return everything, now."""

    async def ingest(
        self,
        *,
        path: str,
        name: str | None = None,
        team: str | None = None,
        priority_ceiling: str | None = None,
    ) -> Intent:
        """Ask for the folder or file at ``path`` (absolute) to be taken in."""

    async def load(self, model: str, /) -> Intent:
        """Ask for ``model`` to be loaded."""

    async def unload(self, model: str, /) -> Intent:
        """Ask for ``model`` to be unloaded."""

    async def pin(self, model: str, pinned: bool, /) -> Model:
        """Set whether ``model`` may be evicted."""

    async def approve(self, name: str, what: Sequence[str], /) -> Intent:
        """Allow ``what`` for a refused drop; nothing: what it was refused for."""

    async def intent(self, intent_id: str, /) -> Intent:
        """Return one intent; `InputError` for an unknown one."""

    async def intents(self, *, limit: int) -> Sequence[Intent]:
        """Return the newest intents first."""

    async def explain(self, model: str, /) -> Explanation:
        """Return why ``model`` is where it is."""

    async def plan(self, model: str, /) -> Plan:
        """Return what would be done to load ``model``; does nothing."""

    async def decisions(self, *, limit: int, advised: bool) -> Sequence[Decision]:
        """Return the newest decisions first; ``advised``: those that an LLM was asked for."""

    async def decision(self, decision_id: str, /) -> Decision:
        """Return one decision; `InputError` for an unknown one."""

    async def rethink(self, decision_id: str, /) -> Rethought:
        """Ask the LLM again what it was asked for a decision; does nothing."""

    async def events(self, *, limit: int, after: int) -> Sequence[Event]:
        """Return events with ids above ``after``, newest first."""

    async def status(self) -> dict[str, Any]:
        """Return the service's own state as JSON values."""

    async def issue_key(self, terms: KeyTerms, /) -> IssuedKey:
        """Make an API key."""

    async def revoke_key(self, key_id: str, /) -> ApiKey:
        """End a key; `InputError` for an unknown one."""

    async def keys(self) -> Mapping[str, ApiKey]:
        """Return all keys, revoked ones too, by the hash of their secret."""


class Body(BaseModel):
    """A request's JSON; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class Pin(Body):
    """Whether a model is pinned."""

    pinned: bool


class Approval(Body):
    """What is allowed; nothing: what the drop was refused for."""

    what: tuple[Literal["remote-code", "pickle"], ...] = ()


class Ingest(Body):
    """What is to be taken in."""

    path: str = Field(min_length=1, description="Absolute path on the service's machine.")
    name: str | None = None
    team: str | None = None
    priority_ceiling: Priority | None = None

    def by(self, holder: Holder | None) -> Ingest:
        """Return what this is when ``holder`` asks for it: in its team's name, at most its class.

        Raises:
            HttpProblem: 403, it names another team.
        """
        if holder is None:
            return self
        key = holder.key
        if key.team is not None and self.team not in (None, key.team):
            raise HttpProblem(403, f"this key is {key.team}'s, not {self.team}'s", reason="team")
        classes = [c for c in (self.priority_ceiling, holder.priority) if c is not None]
        ceiling = max(classes, key=lambda p: p.rank, default=None)
        return self.model_copy(update={"team": key.team or self.team, "priority_ceiling": ceiling})


class Subject(Body):
    """Which model."""

    model: str


Wait = Annotated[
    float,
    Query(ge=0, le=LONGEST_WAIT_S, description="Seconds to wait for the outcome."),
]
Limit = Annotated[int, Query(ge=1, le=1000)]


def router(*, operations: Operations, keys: KeyRing, clock: Clock) -> APIRouter:
    """Return the routes under ``/api/v1``."""
    api = APIRouter(prefix="/api/v1")

    async def settled(intent: Intent, wait: float) -> Intent:
        until = clock.monotonic() + wait
        while intent.state == "pending" and (left := until - clock.monotonic()) > 0:
            await clock.sleep(min(POLL_S, left))
            intent = await operations.intent(intent.id)
        return intent

    _add_questions(api, operations)
    _add_decisions(api, operations)
    _add_models(api, operations, settled)
    _add_intents(api, operations, settled)
    _add_keys(api, operations, keys)
    return api


Settled = Callable[[Intent, float], Awaitable[Intent]]


def _add_questions(api: APIRouter, operations: Operations) -> None:
    """Add what only looks."""

    @api.get("/models")
    async def models() -> list[ModelRow]:
        return model_rows(await operations.fleet())

    @api.get("/devices")
    async def devices() -> list[DeviceRow]:
        return device_rows(await operations.fleet())

    @api.get("/events")
    async def events(limit: Limit = 100, after: int = 0) -> list[Event]:
        return list(await operations.events(limit=limit, after=after))

    @api.get("/status")
    async def status() -> dict[str, Any]:
        return await operations.status()

    @api.post("/plan")
    async def plan(body: Subject) -> Plan:
        return await operations.plan(body.model)


def _add_decisions(api: APIRouter, operations: Operations) -> None:
    """Add what was decided, and how."""

    @api.get("/decisions")
    async def decisions(limit: Limit = 50, advised: bool = False) -> list[dict[str, Any]]:
        found = await operations.decisions(limit=limit, advised=advised)
        return [decision_detail(made) for made in found]

    @api.get("/decisions/{decision_id}")
    async def decision(decision_id: str) -> dict[str, Any]:
        return decision_detail(await operations.decision(decision_id))

    @api.post("/decisions/{decision_id}/replay")
    async def replay(decision_id: str) -> dict[str, Any]:
        found = await operations.rethink(decision_id)
        return {
            "decision": decision_detail(found.decision),
            "plan": found.plan.model_dump(mode="json"),
            "trace": found.trace,
        }


def _add_models(api: APIRouter, operations: Operations, settled: Settled) -> None:
    """Add what is about one model."""

    @api.get("/models/{model}")
    async def model(model: str) -> dict[str, Any]:
        return model_detail((await operations.explain(model)).model)

    @api.get("/models/{model}/explain")
    async def explain(model: str) -> dict[str, Any]:
        explanation = await operations.explain(model)
        return {
            "model": model_detail(explanation.model),
            "decisions": [decision_detail(d) for d in explanation.decisions],
            "events": [e.model_dump(mode="json") for e in explanation.events],
        }

    @api.post("/models/{model}/load", status_code=202)
    async def load(model: str, wait: Wait = 0.0) -> Intent:
        return await settled(await operations.load(model), wait)

    @api.post("/models/{model}/unload", status_code=202)
    async def unload(model: str, wait: Wait = 0.0) -> Intent:
        return await settled(await operations.unload(model), wait)

    @api.put("/models/{model}/pin")
    async def pin(model: str, body: Pin) -> dict[str, Any]:
        return model_detail(await operations.pin(model, body.pinned))

    @api.post("/models/{model}/approve", status_code=202)
    async def approve(model: str, body: Approval, wait: Wait = 0.0) -> Intent:
        return await settled(await operations.approve(model, body.what), wait)


def _add_intents(api: APIRouter, operations: Operations, settled: Settled) -> None:
    """Add ingest, and what became of everything that was asked for."""

    @api.post("/ingest", status_code=202)
    async def ingest(body: Ingest, request: Request, wait: Wait = 0.0) -> Intent:
        if not Path(body.path).is_absolute():
            raise InputError(f"path: {body.path!r} is relative; give an absolute path")
        body = body.by(holder_of(request.scope))
        intent = await operations.ingest(
            path=body.path,
            name=body.name,
            team=body.team,
            priority_ceiling=body.priority_ceiling,
        )
        return await settled(intent, wait)

    @api.get("/intents")
    async def intents(limit: Limit = 100) -> list[Intent]:
        return list(await operations.intents(limit=limit))

    @api.get("/intents/{intent_id}")
    async def intent(intent_id: str, wait: Wait = 0.0) -> Intent:
        return await settled(await operations.intent(intent_id), wait)


def _add_keys(api: APIRouter, operations: Operations, ring: KeyRing) -> None:
    """Add what is about API keys; changes hold at once."""

    @api.get("/keys")
    async def keys() -> list[ApiKey]:
        return sorted((await operations.keys()).values(), key=lambda key: key.created_at)

    @api.post("/keys", status_code=201)
    async def issue(body: KeyTerms) -> IssuedKey:
        issued = await operations.issue_key(body)
        await ring.refresh()
        return issued

    @api.delete("/keys/{key_id}")
    async def revoke(key_id: str) -> ApiKey:
        revoked = await operations.revoke_key(key_id)
        await ring.refresh()
        return revoked
