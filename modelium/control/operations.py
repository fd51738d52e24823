"""The operations behind the admin API, and so behind the CLI."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from modelium.control import notices
from modelium.control.approval import Wanted, admit
from modelium.control.file_share import FileShare
from modelium.control.intents import Intents
from modelium.control.node_operations import NodeOperations
from modelium.control.reload import ConfigSource, Reloaded, Reloader
from modelium.control.request_lines import store_lines
from modelium.control.signals import Signals
from modelium.control.supervision import current_troubles
from modelium.control.versions import VersionOperations, registered
from modelium.errors import InputError, StoreUnavailable
from modelium.intake.object_storage import is_url
from modelium.intake.rejected import rejected
from modelium.models import (
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
from modelium.models.api_keys import ApiKey, IssuedKey, KeyTerms
from modelium.models.outcomes import Outcome
from modelium.models.teams import TeamReport
from modelium.outcomes.report import BrainReport, report
from modelium.outcomes.trust import by_kind
from modelium.policy import Policy
from modelium.policy.departures import REMEMBERED_S
from modelium.policy.team_reports import described, team_reports
from modelium.policy.wish_outcomes import wish_outcomes
from modelium.ports import Question
from modelium.stages import decision_record
from modelium.stages.downloads import check_source
from modelium.stages.failures import forgive
from modelium.stages.ownership import check_team
from modelium.stages.services import Services
from modelium.stages.snapshot import snapshot
from modelium.store import new_id


class Explanation(Frozen):
    """What is known under one name: a model, drops that are none, their decisions and events."""

    model: Model | None
    """``None``: it is a drop, or it was removed; the events say when and by whom."""
    drops: tuple[Drop, ...]
    decisions: tuple[Decision, ...]
    events: tuple[Event, ...]
    owner: tuple[str, ...] = ()
    """What its team has, and what became of the wishes that it came with; a sentence each."""
    outcomes: tuple[Outcome, ...] = ()
    """What came of the actions of its decisions, the newest first."""


class Rethought(Frozen):
    """An earlier decision, and the brain's plan for the same snapshot now."""

    decision: Decision
    plan: Plan
    trace: dict[str, Any]


class Operations:
    """Answers queries at once; a request to act becomes an intent whose outcome is stored."""

    def __init__(self, *, services: Services, reloader: Reloader | None = None) -> None:
        """Answer for ``services``.

        Args:
            services: the ports and the store.
            reloader: of the configuration; default: one that has nothing to read.
        """
        self._services = services
        self._reloader = reloader or Reloader(
            services=services, signals=Signals(), source=ConfigSource()
        )
        self._intents = Intents(services=services)
        self.versions = VersionOperations(services=services, intents=self._intents)
        self.files = FileShare(services=services)
        self.nodes = NodeOperations(services=services)

    async def fleet(self) -> Fleet:
        """Return the current snapshot of the fleet."""
        return await snapshot(self._services)

    async def drops(self) -> list[Drop]:
        """Return the drops that are no models: pending ones, then rejected ones, newest first."""
        services = self._services
        kept = await asyncio.to_thread(rejected, services.repository)
        return [*services.pending.all(), *kept]

    async def model(self, model: str, /) -> Model:
        """Return one model as the fleet shows it; raises `UnknownModel`."""
        known = (await self.fleet()).models_by_name.get(model)
        return known or await self._services.store.model(model)

    async def explain(self, name: str, /) -> Explanation:
        """Return why the model, or the drop, of that name is in its state.

        Raises:
            UnknownModel: there is neither, and never was.
        """
        store = self._services.store
        fleet = await snapshot(self._services)
        known = fleet.models_by_name.get(name)
        drops = [drop for drop in await self.drops() if drop.answers_to(name)]
        await self._count_requests()
        subject = name if known or not drops else drops[0].model
        decisions, events, outcomes = await asyncio.gather(
            store.decisions.newest(model=subject),
            store.events.newest(model=subject),
            store.outcomes.of_models([subject]),
        )
        if known is None and not drops and all(e.kind != "model.removed" for e in events):
            await store.model(name)  # raises
        return Explanation(
            model=known,
            drops=tuple(drops),
            decisions=tuple(decisions),
            events=tuple(events),
            owner=() if known is None else owner(known, fleet, self._services.policy),
            outcomes=tuple(outcomes),
        )

    async def teams(self) -> list[TeamReport]:
        """Return what each team has of what it may have."""
        return team_reports(await self.fleet(), self._services.policy)

    async def plan(self, model: str, /) -> Plan:
        """Return the plan if an operator loaded ``model`` now; nothing is done."""
        await self._services.store.model(model)
        fleet = await snapshot(self._services)
        question = Question(trigger=Trigger.OPERATOR, model=model, now=self._services.clock.time())
        return await self._services.brain.decide(question, fleet, self._services.policy)

    async def decisions(self, *, limit: int = 50, advised: bool = False) -> Sequence[Decision]:
        """Return decisions, the newest first; ``advised``: only those with an LLM."""
        return await self._services.store.decisions.newest(limit=limit, advised=advised)

    async def decision(self, decision_id: str, /) -> Decision:
        """Return one decision; raises `InputError` where there is none."""
        return await self._services.store.decisions.get(decision_id)

    async def report(self, *, seconds: float, trigger: Trigger | None = None) -> BrainReport:
        """Return what each author of decisions has achieved in the last ``seconds``.

        ``trigger``: by decisions of this trigger alone.
        """
        store, now = self._services.store, self._services.clock.time()
        # Older decisions are needed, too: they may have left a model unloaded that is missed now.
        since = now - seconds
        await self._count_requests()
        outcomes, oldest, departures = await asyncio.gather(
            store.outcomes.all(),
            store.outcomes.oldest(),
            store.departures.since(min(since, now - REMEMBERED_S)),
        )
        found = await asyncio.to_thread(
            report, outcomes, since=since, until=now, oldest=oldest, trigger=trigger
        )
        may = self._services.policy.departures
        return found.model_copy(
            update={"departures": by_kind(departures, may, since=since, now=now)}
        )

    async def rethink(self, decision_id: str, /) -> Rethought:
        """Ask the LLM again on the snapshot of an earlier decision; nothing is done.

        Raises:
            InputError: no LLM is configured, or the decision was made without one.
        """
        brain = self._services.brain
        made = await self.decision(decision_id)
        question, fleet, policy = await asyncio.to_thread(decision_record.unpack, made)
        advice = await brain.advise(question, fleet, policy)
        if advice is None:
            raise InputError("no LLM is configured; set brain.base_url and brain.model")
        plan = await brain.decide(question, fleet, policy, advice)
        return Rethought(decision=made, plan=plan, trace=advice.trace)

    async def events(self, *, limit: int = 50, after: int = 0) -> Sequence[Event]:
        """Return events, the newest first."""
        return await self._services.store.events.newest(limit=limit, after=after)

    async def intent(self, intent_id: str, /) -> Intent:
        """Return one intent."""
        return await self._services.store.intents.get(intent_id)

    async def intents(self, *, limit: int = 50) -> Sequence[Intent]:
        """Return intents, the newest first."""
        return await self._services.store.intents.newest(limit=limit)

    async def ingest(
        self,
        *,
        path: str,
        name: str | None = None,
        team: str | None = None,
        priority_ceiling: str | None = None,
        bound: str | None = None,
    ) -> Intent:
        """Ingest what is at ``path``, or at a URL of object storage.

        Raises `InputError` where ``team`` is not known, or the URL is not allowed.

        ``bound``: the team of the key that asks, which takes nothing of others.
        """
        check_team(self._services.config, team)
        if is_url(path):
            check_source(self._services, path, bound=bound)
        drop = Wanted(
            path=path, name=name, team=team, priority_ceiling=priority_ceiling, bound=bound
        )
        return await self._ingest("ingest", name, drop)

    async def load(self, model: str, /, *, trigger: Trigger = Trigger.OPERATOR) -> Intent:
        """Load ``model``; with `Trigger.TEAM`, within the quotas of its team."""
        await self._registered(model)
        intent = await self._intents.new("load", model, {})
        run = self._services.launcher.load(model=model, trigger=trigger)
        return self._intents.follow(intent, run)

    async def retry(self, model: str, /, *, trigger: Trigger = Trigger.OPERATOR) -> Intent:
        """Forget the failures of ``model``, which ends its quarantine, and load it as `load`."""
        await self._registered(model)
        intent = await self._intents.new("retry", model, {})
        with self._intents.held(intent):
            await forgive(
                self._services,
                model,
                why=f"{'its team' if trigger is Trigger.TEAM else 'an operator'} asked",
            )
        run = self._services.launcher.load(model=model, trigger=trigger)
        return self._intents.follow(intent, run)

    async def unload(self, model: str, /) -> Intent:
        """Unload ``model``."""
        await self._registered(model)
        intent = await self._intents.new("unload", model, {})
        run = self._services.launcher.evict(models=[model], reason="an operator asked")
        return self._intents.follow(intent, run)

    async def pin(self, model: str, pinned: bool, /) -> Model:
        """Protect ``model`` from eviction, or end the protection."""
        await self._registered(model)
        return await self._services.store.rules.set_pinned(model, pinned)

    async def approve(
        self, name: str, what: Sequence[str] = (), /, *, team: str | None = None
    ) -> Intent:
        """Allow what a refused drop was refused for, and ingest it; see `approval.admit`."""
        drop = await admit(self._services, name, what, team=team)
        return await self._ingest("approve", name, drop)

    async def issue_key(self, terms: KeyTerms, /) -> IssuedKey:
        """Create a key; only this answer holds its secret.

        Raises:
            InputError: its team is not known.
        """
        check_team(self._services.config, terms.team)
        store = self._services.store
        issued = await store.keys.issue(terms, id=new_id())
        await store.events.append("key.issued", key=issued.key.id, name=terms.name)
        return issued

    async def revoke_key(self, key_id: str, /) -> ApiKey:
        """Revoke a key; this cannot be undone."""
        store = self._services.store
        key = await store.keys.revoke(key_id)
        await store.events.append("key.revoked", key=key.id, name=key.name)
        return key

    async def keys(self) -> Mapping[str, ApiKey]:
        """Return all keys, revoked ones too, by the hash of their secret."""
        return await self._services.store.keys.by_hash()

    def notices(self) -> list[str]:
        """Return what operators should know beside the models."""
        return [
            *self._reloader.notices(),
            *notices.of_sweeps(self._services.sweeps),
            *current_troubles(self._services),
        ]

    async def reload(self) -> Reloaded:
        """Read the configuration again; raises `ConfigError` where it is invalid."""
        return await self._reloader.reload()

    async def status(self) -> dict[str, Any]:
        """Return whether orchestration is enabled, the health of each runtime, and `notices`."""
        services = self._services
        return {
            "enabled": services.policy.enabled,
            "node": services.config.orchestration.node,
            "runtimes": [s.model_dump(mode="json") for s in services.runtime_monitor.statuses()],
            "revision": await services.store.revision(),
            "notices": self.notices(),
        }

    async def _count_requests(self) -> None:
        """Have outcomes count requests up to now, as far as the store can be written."""
        with suppress(StoreUnavailable):
            await store_lines(self._services)

    async def _registered(self, name: str) -> Model:
        """Return a model that an operator may act on; raises `UnknownModel`, `InputError`."""
        return await registered(self._services, name)

    async def aclose(self) -> None:
        """Stop following intents; the stages that they started continue."""
        await self._intents.aclose()

    async def _ingest(
        self, kind: Literal["ingest", "approve"], model: str | None, drop: Wanted
    ) -> Intent:
        intent = await self._intents.new(kind, model, drop.model_dump())
        run = self._services.launcher.ingest(
            path=drop.path,
            name=drop.name,
            team=drop.team,
            priority_ceiling=drop.priority_ceiling,
            intent=intent.id,
            bound=drop.bound,
        )
        return self._intents.follow(intent, run)


def owner(model: Model, fleet: Fleet, policy: Policy) -> tuple[str, ...]:
    """Return what the team of ``model`` has, and what became of each wish, as sentences."""
    reports = [described(r) for r in team_reports(fleet, policy) if r.name == model.team]
    wishes = [f"its note: {sentence}" for sentence in wish_outcomes(model, policy)]
    return (*reports, *wishes)
