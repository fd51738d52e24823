"""Operators' requests about versions and files: removal, rollback, the trash."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from modelium.control.intents import FAILED, Intents
from modelium.errors import InputError, UnknownModel
from modelium.intake.rejected import rejected
from modelium.intake.trash import TrashEntry
from modelium.models import Decision, Intent, Model, Plan, Report, Trigger, Version
from modelium.stages.planning import OPERATOR
from modelium.stages.removal import remove
from modelium.stages.services import Services
from modelium.stages.tidying import in_use, move_removed
from modelium.store import new_id


async def registered(services: Services, name: str) -> Model:
    """Return a model that an operator may act on.

    Raises:
        UnknownModel: no model has that name.
        InputError: it is the other version of a model that is being switched.
    """
    record = await services.store.model(name)
    if record.twin_of is not None:
        raise InputError(
            f"{name} is version {record.version} of {record.twin_of}, which is being switched; "
            f"act on {record.twin_of}, or wait until the switch is over"
        )
    return record


class VersionOperations:
    """Removes, restores and rolls back models."""

    def __init__(self, *, services: Services, intents: Intents) -> None:
        """``intents`` records what is asked for."""
        self._services = services
        self._intents = intents

    async def of(self, model: str, /) -> Sequence[Version]:
        """Return the versions of ``model``, removed ones too, the newest first.

        Raises:
            UnknownModel: there never was one.
        """
        lineage = self._services.store.lineage
        found = [*await lineage.versions(model), *await lineage.versions(model, removed=True)]
        if not found:
            await self._services.store.model(model)
        return sorted(found, key=lambda version: -version.version)

    async def remove(self, model: str, /, *, by: str, purge: bool, force: bool) -> Intent:
        """Unload ``model``, forget it, and move its files to the trash.

        Args:
            model: its name.
            by: who asks, for the record.
            purge: delete the files instead.
            force: also where it is pinned, always loaded, or named by an alias.

        Raises:
            UnknownModel: no model has that name.
            InputError: something of the operator's keeps it.
        """
        services = self._services
        try:
            record = await registered(services, model)
        except UnknownModel as exc:
            drops = [
                *services.pending.all(),
                *await asyncio.to_thread(rejected, services.repository),
            ]
            if drop := next((drop for drop in drops if drop.answers_to(model)), None):
                raise UnknownModel(
                    f"{model} is no model: it is a drop, {drop.state.value}; delete {drop.path}"
                ) from exc
            raise
        kept = "" if force else self._kept_because(record)
        if kept:
            raise InputError(f"{model} is kept: {kept}; `--force` removes it all the same")
        if record.deployment is not None and not services.policy.enabled:
            raise InputError(
                f"{model} is loaded, and orchestration.enabled is false: Modelium unloads "
                "nothing; enable it, or run `modelium down` first"
            )
        intent = await self._intents.new("remove", model, {"purge": purge, "by": by})
        with self._intents.held(intent):
            await services.store.lineage.begin_removal(model, by=by, purge=purge)
            await services.store.events.append("model.removing", model=model, by=by, purge=purge)
        return self._intents.follow(intent, remove(services, model=model))

    async def remove_version(
        self, model: str, version: int, /, *, by: str, purge: bool, force: bool
    ) -> Intent:
        """Remove one version of ``model``; its only one: the whole model.

        Raises:
            UnknownModel: no model has that name.
            InputError: the version is in use, or is not kept.
        """
        services = self._services
        record = await registered(services, model)
        kept = [found.version for found in await services.store.lineage.versions(model)]
        if kept == [version]:
            return await self.remove(model, by=by, purge=purge, force=force)
        if version == record.version:
            raise InputError(
                f"version {version} is the current one of {model}; run `modelium rollback {model}` "
                f"first, or `modelium rm {model}` to remove all versions"
            )
        aliases = {} if force else services.config.gateway.aliases
        if version in in_use(record, aliases):
            raise InputError(
                f"version {version} of {model} is loaded or named by an alias; unload it or "
                "change gateway.aliases first"
            )
        intent = await self._intents.new("remove", model, {"version": version, "by": by})
        with self._intents.held(intent):
            try:
                await services.store.lineage.retire(model, [version], by=by, purge=purge)
            except InputError as exc:
                return await self._intents.end(intent, str(exc), ok=False)
            await services.store.events.append(
                "version.removed", model=model, version=version, by=by, purge=purge
            )
            await move_removed(services)
        return await self._intents.end(intent, f"version {version} was removed")

    async def rollback(self, model: str, version: int | None = None, /, *, by: str) -> Intent:
        """Make the version before the current one, or ``version``, the current one.

        Raises:
            UnknownModel: no model has that name.
            InputError: no such version is kept.
        """
        services = self._services
        record = await registered(services, model)
        kept = [found.version for found in await services.store.lineage.versions(model)]
        target = version or max((v for v in kept if v < record.version), default=None)
        if target is None:
            raise InputError(
                f"no version of {model} before {record.version} is kept; "
                f"`modelium versions {model}` lists all"
            )
        intent = await self._intents.new("rollback", model, {"version": target, "by": by})
        reason = f"version {target} replaces version {record.version}: {by} rolled it back"
        with self._intents.held(intent):
            try:
                await services.store.lineage.choose(model, target)
            except InputError as exc:
                await self._intents.end(intent, str(exc), ok=False)
                raise
            await self._record(model, reason)
            await services.store.events.append(
                "model.rolled-back", model=model, version=target, was=record.version, by=by
            )
            services.switchboard.know(await services.store.versions())
        return self._intents.follow(intent, self._rolled_back(model, target, was=record.version))

    async def _rolled_back(self, model: str, target: int, *, was: int) -> Report:
        """Analyze the version that is the current one again; the report says so."""
        run = self._services.launcher.analyze(model=model)
        report = await self._services.examiners.during(run, model)
        if report.outcome in FAILED:
            return report
        reason = f"version {target} is the current one again, in place of version {was}"
        return report.model_copy(update={"reason": reason})

    async def trash(self) -> Sequence[TrashEntry]:
        """Return what can be restored, the newest first."""
        return await asyncio.to_thread(self._services.repository.trash.entries)

    async def restore(self, name: str, /, *, team: str | None = None) -> Intent:
        """Ingest a removed version again; it becomes the newest version of its model.

        Args:
            name: of the entry, of the model, or ``NAME@VERSION``.
            team: whose it has to be; default: anybody's.

        Raises:
            InputError: the trash holds no such entry.
        """
        entry = await asyncio.to_thread(self._services.repository.trash.find, name, team=team)
        intent = await self._intents.new("restore", entry.model, {"entry": entry.name})
        run = self._services.launcher.ingest(
            path=str(entry.folder), name=entry.model, intent=intent.id
        )
        return self._intents.follow(intent, run)

    def _kept_because(self, model: Model) -> str:
        """Return what the operator keeps ``model`` by; empty: nothing."""
        if model.pinned:
            return f"it is pinned (`modelium pin {model.name} --off` unpins it)"
        if model.name in self._services.policy.always_loaded:
            return "it is in policies.always_loaded of the configuration"
        named = [
            alias
            for alias, target in self._services.config.gateway.aliases.items()
            if target.partition(":")[0] == model.name
        ]
        if named:
            return f"gateway.aliases names it as {', '.join(sorted(named))}"
        return ""

    async def _record(self, model: str, reason: str) -> None:
        """Record what the operator decided, so that `explain` shows it."""
        now = self._services.clock.time()
        plan = Plan(author=OPERATOR, trigger=Trigger.OPERATOR, subject=model, reason=reason)
        await self._services.store.decisions.record(
            Decision(
                id=new_id(),
                at=now,
                plan=plan,
                snapshot_digest="",
                outcome="done",
                finished_at=now,
            )
        )
