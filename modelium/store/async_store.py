"""The store for code on an event loop: every method runs on a thread.

Reading and writing methods have threads of their own: writers that wait for another process's lock
leave the readers theirs.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from modelium.store.api_keys import KeyTable
from modelium.store.decisions import DecisionLog
from modelium.store.departures import Departures
from modelium.store.events import EventLog
from modelium.store.history import History
from modelium.store.intents import IntentLog
from modelium.store.key_pools import KeyPools
from modelium.store.lineage import Lineage
from modelium.store.nodes import NodeTable
from modelium.store.operator_rules import OperatorRules
from modelium.store.outcomes import OutcomeLog
from modelium.store.parts import PartTable
from modelium.store.questions import QuestionLog
from modelium.store.reservations import Reservations
from modelium.store.states import States
from modelium.store.store import Store
from modelium.store.team_usage import TeamUsage
from modelium.store.twins import Twins

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")


WORKERS = 6
"""Threads for reads, and as many for writes: together fewer than the connections of the pool."""


class Threads:
    """The threads that a store's methods run on; they end with the last reference to this."""

    def __init__(self) -> None:
        """Start none yet."""
        self.readers = ThreadPoolExecutor(WORKERS, thread_name_prefix="store-read")
        self.writers = ThreadPoolExecutor(WORKERS, thread_name_prefix="store-write")


class Face(Generic[T]):
    """The methods of a blocking object, each on a thread."""

    def __init__(self, blocking: T, threads: Threads) -> None:
        """``blocking`` is what the methods are called on."""
        self.blocking = blocking
        self.threads = threads


Blocking = Callable[Concatenate[T, P], R]
OffLoop = Callable[Concatenate[Face[T], P], Coroutine[Any, Any, R]]


def reads(method: Blocking[T, P, R]) -> OffLoop[T, P, R]:
    """Return ``method``, which writes nothing, as a coroutine function."""
    found = _off_loop(method, lambda threads: threads.readers)
    found.reads = True  # type: ignore[attr-defined]
    return found


def off_loop(method: Blocking[T, P, R]) -> OffLoop[T, P, R]:
    """Return ``method`` as a coroutine function."""
    return _off_loop(method, lambda threads: threads.writers)


def _off_loop(
    method: Blocking[T, P, R], choose: Callable[[Threads], ThreadPoolExecutor]
) -> OffLoop[T, P, R]:
    @functools.wraps(method)
    async def call(self: Face[T], /, *args: P.args, **kwargs: P.kwargs) -> R:
        context = contextvars.copy_context()
        work = functools.partial(context.run, method, self.blocking, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(choose(self.threads), work)

    return call


class AsyncDecisions(Face[DecisionLog]):
    """`DecisionLog`."""

    record = off_loop(DecisionLog.record)
    finish = off_loop(DecisionLog.finish)
    abandon = off_loop(DecisionLog.abandon)
    get = reads(DecisionLog.get)
    newest = reads(DecisionLog.newest)
    accepted = reads(DecisionLog.accepted)


class AsyncEvents(Face[EventLog]):
    """`EventLog`."""

    append = off_loop(EventLog.append)
    newest = reads(EventLog.newest)


class AsyncIntents(Face[IntentLog]):
    """`IntentLog`."""

    save = off_loop(IntentLog.save)
    get = reads(IntentLog.get)
    newest = reads(IntentLog.newest)
    pending = reads(IntentLog.pending)
    abandon = off_loop(IntentLog.abandon)


class AsyncKeys(Face[KeyTable]):
    """`KeyTable`."""

    issue = off_loop(KeyTable.issue)
    revoke = off_loop(KeyTable.revoke)
    by_hash = reads(KeyTable.by_hash)


class AsyncHistory(Face[History]):
    """`History`."""

    record_memory = off_loop(History.record_memory)
    record_traffic = off_loop(History.record_traffic)
    traffic = reads(History.traffic)
    publish = off_loop(History.publish)
    elsewhere = reads(History.elsewhere)
    adopt_traffic = off_loop(History.adopt_traffic)
    log = off_loop(History.log)
    by_hour = reads(History.by_hour)
    prune = off_loop(History.prune)


class AsyncLineage(Face[Lineage]):
    """`Lineage`."""

    versions = reads(Lineage.versions)
    paths = reads(Lineage.paths)
    set_profile = off_loop(Lineage.set_profile)
    begin_removal = off_loop(Lineage.begin_removal)
    finish_removal = off_loop(Lineage.finish_removal)
    retire = off_loop(Lineage.retire)
    note_moved = off_loop(Lineage.note_moved)
    choose = off_loop(Lineage.choose)
    seal = off_loop(Lineage.seal)
    set_seal = off_loop(Lineage.set_seal)
    prove = off_loop(Lineage.prove)


class AsyncStates(Face[States]):
    """`States`."""

    due_on = reads(States.due_on)
    mark_analyzed = off_loop(States.mark_analyzed)
    mark_unservable = off_loop(States.mark_unservable)
    leave_queue = off_loop(States.leave_queue)
    mark_ready = off_loop(States.mark_ready)
    mark_healthy = off_loop(States.mark_healthy)
    forgive = off_loop(States.forgive)
    mark_moved = off_loop(States.mark_moved)
    start_unloading = off_loop(States.start_unloading)
    order_unloading = off_loop(States.order_unloading)
    cancel_eviction = off_loop(States.cancel_eviction)
    release = off_loop(States.release)
    requeue = off_loop(States.requeue)
    fail = off_loop(States.fail)
    cancel_load = off_loop(States.cancel_load)


class AsyncReservations(Face[Reservations]):
    """`Reservations`."""

    add = off_loop(Reservations.add)
    all = reads(Reservations.all)
    drop = off_loop(Reservations.drop)


class AsyncTwins(Face[Twins]):
    """`Twins`."""

    stand_by = off_loop(Twins.stand_by)
    exchange = off_loop(Twins.exchange)
    drop = off_loop(Twins.drop)


class AsyncDepartures(Face[Departures]):
    """`Departures`."""

    since = reads(Departures.since)
    note_requests = off_loop(Departures.note_requests)


class AsyncRules(Face[OperatorRules]):
    """`OperatorRules`."""

    idle_pause = reads(OperatorRules.idle_pause)
    set_idle_pause = off_loop(OperatorRules.set_idle_pause)
    asked = reads(OperatorRules.asked)
    apply_standings = off_loop(OperatorRules.apply_standings)
    set_pinned = off_loop(OperatorRules.set_pinned)
    approve = off_loop(OperatorRules.approve)
    approvals = reads(OperatorRules.approvals)


class AsyncTeamUsage(Face[TeamUsage]):
    """`TeamUsage`."""

    add = off_loop(TeamUsage.add)
    of_the_last_day = reads(TeamUsage.of_the_last_day)


class AsyncOutcomes(Face[OutcomeLog]):
    """`OutcomeLog`."""

    class_failures = reads(OutcomeLog.class_failures)
    all = reads(OutcomeLog.all)
    of_models = reads(OutcomeLog.of_models)
    oldest = reads(OutcomeLog.oldest)


class AsyncNodes(Face[NodeTable]):
    """`NodeTable`."""

    join = off_loop(NodeTable.join)
    beat = off_loop(NodeTable.beat)
    all = reads(NodeTable.all)
    identities = reads(NodeTable.identities)
    set_state = off_loop(NodeTable.set_state)
    remove = off_loop(NodeTable.remove)
    issue_token = off_loop(NodeTable.issue_token)
    relieve = off_loop(NodeTable.relieve)
    strays = reads(NodeTable.strays)
    cleared = off_loop(NodeTable.cleared)
    note_copies = off_loop(NodeTable.note_copies)
    copies = reads(NodeTable.copies)


class AsyncQuestions(Face[QuestionLog]):
    """`QuestionLog`."""

    ask = off_loop(QuestionLog.ask)
    open = reads(QuestionLog.open)
    answer = off_loop(QuestionLog.answer)
    answered = reads(QuestionLog.answered)
    forget = off_loop(QuestionLog.forget)
    prune = off_loop(QuestionLog.prune)


class AsyncKeyPools(Face[KeyPools]):
    """`KeyPools`."""

    settle = off_loop(KeyPools.settle)


class AsyncParts(Face[PartTable]):
    """`PartTable`."""

    want = off_loop(PartTable.want)
    report = off_loop(PartTable.report)
    end = off_loop(PartTable.end)
    ended = off_loop(PartTable.ended)
    stray = off_loop(PartTable.stray)
    of = reads(PartTable.of)
    on = reads(PartTable.on)


class AsyncStore(Face[Store]):
    """`Store` with its logs."""

    def __init__(self, blocking: Store) -> None:
        """``blocking`` is the open store."""
        threads = Threads()
        super().__init__(blocking, threads)
        self.decisions = AsyncDecisions(blocking.decisions, threads)
        self.events = AsyncEvents(blocking.events, threads)
        self.intents = AsyncIntents(blocking.intents, threads)
        self.keys = AsyncKeys(blocking.keys, threads)
        self.history = AsyncHistory(blocking.history, threads)
        self.lineage = AsyncLineage(blocking.lineage, threads)
        self.states = AsyncStates(blocking.states, threads)
        self.reservations = AsyncReservations(blocking.reservations, threads)
        self.twins = AsyncTwins(blocking.twins, threads)
        self.rules = AsyncRules(blocking.rules, threads)
        self.team_usage = AsyncTeamUsage(blocking.team_usage, threads)
        self.outcomes = AsyncOutcomes(blocking.outcomes, threads)
        self.departures = AsyncDepartures(blocking.departures, threads)
        self.nodes = AsyncNodes(blocking.nodes, threads)
        self.questions = AsyncQuestions(blocking.questions, threads)
        self.key_pools = AsyncKeyPools(blocking.key_pools, threads)
        self.parts = AsyncParts(blocking.parts, threads)

    @property
    def shared(self) -> bool:
        """Whether several nodes may use the store."""
        return self.blocking.shared

    @property
    def plans(self) -> bool:
        """Whether this node plans, as far as it knows."""
        return self.blocking.planner.epoch is not None

    revision = reads(Store.revision)
    view = reads(Store.view)
    versions = reads(Store.versions)
    model = reads(Store.model)
    find = reads(Store.find)
    accept = off_loop(Store.accept)
    prune = off_loop(Store.prune)
    clamp_times = off_loop(Store.clamp_times)
