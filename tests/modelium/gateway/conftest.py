"""A gateway on a free port, with a fake engine behind it and operations in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelium import config
from modelium.clock import SystemClock
from modelium.control.reload import Reloaded
from modelium.errors import InputError, ModeliumError, UnknownModel
from modelium.gateway import Gateway
from modelium.metrics import Metrics
from modelium.models import (
    GIB,
    Decision,
    Drop,
    Event,
    Fleet,
    Frozen,
    Intent,
    Model,
    Plan,
    Trigger,
)
from modelium.models.api_keys import ApiKey, IssuedKey, KeyTerms, digest, new_secret
from modelium.models.outcomes import Outcome
from modelium.models.teams import TeamReport
from modelium.outcomes.report import BrainReport
from modelium.policy import Policy, TeamRules
from modelium.policy.team_reports import team_reports
from modelium.routing.switchboard import Switchboard
from modelium.traffic import TrafficBook
from tests.fakes.routing import Listener
from tests.fakes.upstream import Upstream, upstream


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that announces itself to nobody."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Explanation(Frozen):
    model: Model | None
    drops: tuple[Drop, ...] = ()
    decisions: tuple[Decision, ...] = ()
    events: tuple[Event, ...] = ()
    owner: tuple[str, ...] = ()
    outcomes: tuple[Outcome, ...] = ()


class Rethought(Frozen):
    decision: Decision
    plan: Plan
    trace: dict[str, Any]


@dataclass
class MemoryOperations:
    """`modelium.control.operations.Operations` over a fleet in memory; intents end when a test says so."""

    at: Fleet = field(default_factory=lambda: Fleet(at=1000.0, revision=7))
    kept: dict[str, Intent] = field(default_factory=dict)
    happened: list[Event] = field(default_factory=list)
    dropped: list[Drop] = field(default_factory=list)
    issued: dict[str, ApiKey] = field(default_factory=dict)
    decided: list[Decision] = field(default_factory=list)
    reloaded: Reloaded = field(default_factory=Reloaded)
    noticed: list[str] = field(default_factory=list)
    failure: ModeliumError | None = None
    """Raised by whatever is asked next."""

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _model(self, name: str) -> Model:
        self._check()
        try:
            return self.at.models_by_name[name]
        except KeyError:
            raise UnknownModel(f"no model is called {name!r}") from None

    def _new(self, kind: Any, model: str | None, **parameters: Any) -> Intent:
        self._check()
        number = f"i{len(self.kept) + 1}"
        self.kept[number] = Intent(id=number, at=1.0, kind=kind, model=model, parameters=parameters)
        return self.kept[number]

    def end(self, intent_id: str, detail: str) -> None:
        ended = {"state": "done", "detail": detail, "finished_at": 2.0}
        self.kept[intent_id] = self.kept[intent_id].model_copy(update=ended)

    async def fleet(self) -> Fleet:
        self._check()
        return self.at

    async def ingest(
        self,
        *,
        path: str,
        name: str | None = None,
        team: str | None = None,
        priority_ceiling: str | None = None,
        bound: str | None = None,
    ) -> Intent:
        given = {"path": path, "team": team, "priority_ceiling": priority_ceiling}
        return self._new("ingest", name, **given, **({"bound": bound} if bound else {}))

    async def load(self, model: str, *, trigger: Trigger = Trigger.OPERATOR) -> Intent:
        return self._new("load", self._model(model).name, trigger=trigger)

    async def retry(self, model: str, *, trigger: Trigger = Trigger.OPERATOR) -> Intent:
        return self._new("retry", self._model(model).name, trigger=trigger)

    async def unload(self, model: str) -> Intent:
        return self._new("unload", self._model(model).name)

    async def pin(self, model: str, pinned: bool) -> Model:
        changed = self._model(model).model_copy(update={"pinned": pinned})
        others = tuple(m for m in self.at.models if m.name != model)
        self.at = self.at.model_copy(update={"models": (*others, changed)})
        return changed

    async def approve(self, name: str, what: Sequence[str], *, team: str | None = None) -> Intent:
        return self._new("approve", name, what=list(what), team=team)

    async def intent(self, intent_id: str) -> Intent:
        try:
            return self.kept[intent_id]
        except KeyError:
            raise InputError(f"no intent has the id {intent_id!r}") from None

    async def intents(self, *, limit: int) -> Sequence[Intent]:
        return list(reversed(self.kept.values()))[:limit]

    async def drops(self) -> list[Drop]:
        return self.dropped

    versions: Any = None
    nodes: Any = None
    files: Any = None

    async def model(self, model: str) -> Model:
        return self._model(model)

    async def explain(self, model: str) -> Explanation:
        drops = tuple(drop for drop in self.dropped if drop.answers_to(model))
        return Explanation(
            model=None if drops else self._model(model),
            drops=drops,
            decisions=tuple(self.decided),
            events=tuple(self.happened),
        )

    async def teams(self) -> list[TeamReport]:
        return team_reports(self.at, Policy(teams={"research": TeamRules(memory_bytes=GIB)}))

    async def plan(self, model: str) -> Plan:
        return Plan(author="rules", trigger=Trigger.OPERATOR, subject=self._model(model).name)

    async def decisions(self, *, limit: int, advised: bool) -> Sequence[Decision]:
        return [d for d in self.decided if not advised or d.trace][:limit]

    async def decision(self, decision_id: str) -> Decision:
        return next(d for d in self.decided if d.id == decision_id)

    async def report(self, *, seconds: float, trigger: Trigger | None) -> BrainReport:
        return BrainReport(since=self.at.at - seconds, until=self.at.at, trigger=trigger)

    async def rethink(self, decision_id: str) -> Rethought:
        made = await self.decision(decision_id)
        return Rethought(decision=made, plan=made.plan, trace={"fallback": "timeout: x"})

    async def events(self, *, limit: int, after: int) -> Sequence[Event]:
        return [e for e in reversed(self.happened) if e.id > after][:limit]

    async def reload(self) -> Reloaded:
        self._check()
        return self.reloaded

    def notices(self) -> list[str]:
        return self.noticed

    async def status(self) -> dict[str, Any]:
        return {"enabled": True}

    async def issue_key(self, terms: KeyTerms) -> IssuedKey:
        number, secret = f"k{len(self.issued) + 1}", new_secret()
        key = ApiKey(**terms.model_dump(), id=number, created_at=float(len(self.issued)))
        self.issued[digest(secret.encode())] = key
        return IssuedKey(key=key, secret=secret)

    async def revoke_key(self, key_id: str) -> ApiKey:
        for hashed, key in self.issued.items():
            if key.id == key_id:
                self.issued[hashed] = key.model_copy(update={"revoked_at": 9.0})
                return self.issued[hashed]
        raise InputError(f"no key has the id {key_id!r}")

    async def keys(self) -> Mapping[str, ApiKey]:
        return self.issued


@dataclass
class Setup:
    """All that a test touches."""

    gateway: Gateway
    board: Switchboard
    listener: Listener
    operations: MemoryOperations
    metrics: Metrics
    incoming: Path
    http: httpx.AsyncClient

    @property
    def port(self) -> int:
        return int(self.gateway.url.rpartition(":")[2])


Start = Callable[..., contextlib.AbstractAsyncContextManager[Setup]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start a gateway; keywords are settings of it."""

    @contextlib.asynccontextmanager
    async def started(
        *,
        token: str | None = None,
        webhook_secret: str | None = None,
        max_waiting: int = 256,
        max_waiting_in_all: int = 4096,
        max_wait_s: float = 30.0,
        aliases: dict[str, str] | None = None,
        stream_comment_seconds: float | None = None,
        default_max_tokens: int | None = None,
        limits: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> AsyncIterator[Setup]:
        clock, metrics, operations = SystemClock(), Metrics(), MemoryOperations()
        listener = Listener()
        board = Switchboard(
            traffic=TrafficBook(clock=clock),
            listener=listener,
            metrics=metrics,
            max_waiting_per_model=max_waiting,
            max_waiting=max_waiting_in_all,
            max_wait_s=max_wait_s,
        )
        incoming = tmp_path / "incoming"
        incoming.mkdir(exist_ok=True)
        gateway = Gateway(
            config=config.Gateway.model_validate(
                {
                    "port": 0,
                    "token": token,
                    "aliases": aliases or {},
                    "stream_comment_seconds": stream_comment_seconds,
                    "default_max_tokens": default_max_tokens,
                    **(limits or {}),
                }
            ),
            ingest=config.Ingest.model_validate({"webhook_secret": webhook_secret}),
            incoming=incoming,
            switchboard=board,
            operations=operations,
            metrics=metrics,
            clock=clock,
            links={"Prefect": "http://127.0.0.1:4200"},
            **{"shutdown_grace_s": 1.0, **settings},
        )
        async with gateway, httpx.AsyncClient(base_url=gateway.url, timeout=20) as http:
            yield Setup(gateway, board, listener, operations, metrics, incoming, http)

    return started


@pytest.fixture
async def engine() -> AsyncIterator[Upstream]:
    async with upstream() as fake:
        yield fake


@pytest.fixture
async def setup(start: Start) -> AsyncIterator[Setup]:
    async with start() as running:
        yield running
