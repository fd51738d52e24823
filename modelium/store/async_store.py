"""The store for code on an event loop: every method runs on a thread."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from modelium.store.api_keys import KeyTable
from modelium.store.decisions import DecisionLog
from modelium.store.events import EventLog
from modelium.store.history import History
from modelium.store.intents import IntentLog
from modelium.store.lineage import Lineage
from modelium.store.operator_rules import OperatorRules
from modelium.store.store import Store
from modelium.store.twins import Twins

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")


class Face(Generic[T]):
    """The methods of a blocking object, each on a thread."""

    def __init__(self, blocking: T) -> None:
        """``blocking`` is what the methods are called on."""
        self.blocking = blocking


def off_loop(
    method: Callable[Concatenate[T, P], R],
) -> Callable[Concatenate[Face[T], P], Coroutine[Any, Any, R]]:
    """Return ``method`` as a coroutine function that runs it on a thread."""

    @functools.wraps(method)
    async def call(self: Face[T], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(method, self.blocking, *args, **kwargs)

    return call


class AsyncDecisions(Face[DecisionLog]):
    """`DecisionLog`."""

    record = off_loop(DecisionLog.record)
    finish = off_loop(DecisionLog.finish)
    abandon = off_loop(DecisionLog.abandon)
    accepted = off_loop(DecisionLog.accepted)
    get = off_loop(DecisionLog.get)
    newest = off_loop(DecisionLog.newest)


class AsyncEvents(Face[EventLog]):
    """`EventLog`."""

    append = off_loop(EventLog.append)
    newest = off_loop(EventLog.newest)


class AsyncIntents(Face[IntentLog]):
    """`IntentLog`."""

    save = off_loop(IntentLog.save)
    pending = off_loop(IntentLog.pending)
    abandon = off_loop(IntentLog.abandon)
    get = off_loop(IntentLog.get)
    newest = off_loop(IntentLog.newest)


class AsyncKeys(Face[KeyTable]):
    """`KeyTable`."""

    issue = off_loop(KeyTable.issue)
    revoke = off_loop(KeyTable.revoke)
    by_hash = off_loop(KeyTable.by_hash)


class AsyncHistory(Face[History]):
    """`History`."""

    record_memory = off_loop(History.record_memory)
    record_traffic = off_loop(History.record_traffic)
    traffic = off_loop(History.traffic)
    log = off_loop(History.log)
    by_hour = off_loop(History.by_hour)
    prune = off_loop(History.prune)


class AsyncLineage(Face[Lineage]):
    """`Lineage`."""

    versions = off_loop(Lineage.versions)
    begin_removal = off_loop(Lineage.begin_removal)
    finish_removal = off_loop(Lineage.finish_removal)
    retire = off_loop(Lineage.retire)
    note_moved = off_loop(Lineage.note_moved)
    choose = off_loop(Lineage.choose)
    prove = off_loop(Lineage.prove)


class AsyncTwins(Face[Twins]):
    """`Twins`."""

    stand_by = off_loop(Twins.stand_by)
    exchange = off_loop(Twins.exchange)
    drop = off_loop(Twins.drop)


class AsyncRules(Face[OperatorRules]):
    """`OperatorRules`."""

    idle_pause = off_loop(OperatorRules.idle_pause)
    set_idle_pause = off_loop(OperatorRules.set_idle_pause)
    note_standing = off_loop(OperatorRules.note_standing)
    asked = off_loop(OperatorRules.asked)
    apply_standings = off_loop(OperatorRules.apply_standings)


class AsyncStore(Face[Store]):
    """`Store` with its logs."""

    def __init__(self, blocking: Store) -> None:
        """``blocking`` is the open store."""
        super().__init__(blocking)
        self.decisions = AsyncDecisions(blocking.decisions)
        self.events = AsyncEvents(blocking.events)
        self.intents = AsyncIntents(blocking.intents)
        self.keys = AsyncKeys(blocking.keys)
        self.history = AsyncHistory(blocking.history)
        self.lineage = AsyncLineage(blocking.lineage)
        self.twins = AsyncTwins(blocking.twins)
        self.rules = AsyncRules(blocking.rules)

    revision = off_loop(Store.revision)
    view = off_loop(Store.view)
    versions = off_loop(Store.versions)
    paths = off_loop(Store.paths)
    model = off_loop(Store.model)
    find = off_loop(Store.find)
    set_profile = off_loop(Store.set_profile)
    set_pinned = off_loop(Store.set_pinned)
    approve = off_loop(Store.approve)
    approvals = off_loop(Store.approvals)
    accept = off_loop(Store.accept)
    mark_analyzed = off_loop(Store.mark_analyzed)
    mark_unservable = off_loop(Store.mark_unservable)
    leave_queue = off_loop(Store.leave_queue)
    mark_ready = off_loop(Store.mark_ready)
    mark_moved = off_loop(Store.mark_moved)
    start_unloading = off_loop(Store.start_unloading)
    cancel_eviction = off_loop(Store.cancel_eviction)
    release = off_loop(Store.release)
    requeue = off_loop(Store.requeue)
    fail = off_loop(Store.fail)
    mark_healthy = off_loop(Store.mark_healthy)
    forgive = off_loop(Store.forgive)
    cancel_load = off_loop(Store.cancel_load)
    prune = off_loop(Store.prune)
    clamp_times = off_loop(Store.clamp_times)
