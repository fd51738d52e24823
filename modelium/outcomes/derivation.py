"""What came of the actions of decisions: each is matched with the events that followed it (pure).

Decisions and events of one model alternate, so their order is enough; nothing else is recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from modelium.models import Event, RuntimeName, Trigger
from modelium.models.base import base_name
from modelium.models.outcomes import SOON_S, Outcome, Result

LOADED = ("model.ready", "model.failed", "model.aborted", "model.queued")
"""The events that end a load."""

KINDS = (*LOADED, "model.evicted", "model.lost")
"""The events that tell what came of an action."""

REPLACED = "replaced"
"""The cause of an unload that a newer version replaces."""

DETAIL_CHARACTERS = 300

CHOICES = frozenset({Trigger.INGEST, Trigger.REVIEW, Trigger.OPERATOR, Trigger.TEAM})
"""Triggers at which queueing a model is a choice; at the others it has waited before, or there is
no room."""

FirstRequest = Callable[[str, float, float], float | None]
"""(model, from, until) → when the first request in that time came; ``None``: none did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One action of a decision that was booked."""

    decision: str
    at: float
    author: str
    trigger: Trigger
    fallback: bool
    model: str
    action: Literal["load", "unload", "queue"]
    runtime: RuntimeName | None = None
    cause: str = ""
    """Of an unload."""
    failure: str = ""
    """Why the decision failed; empty: it did not."""


class _Left(NamedTuple):
    """A model that is not loaded."""

    at: float
    by: Step


def outcomes(
    steps: Iterable[Step], events: Iterable[Event], *, first_request: FirstRequest, now: float
) -> list[Outcome]:
    """Return the outcome of each of ``steps``, in their order.

    Args:
        steps: the oldest first; a model that is queued again is queued once.
        events: of `KINDS`, the oldest first.
        first_request: looks requests up.
        now: seconds since the epoch.
    """
    by_model: dict[str, tuple[list[tuple[int, Step]], list[Event]]] = {}
    for place, step in enumerate(steps):
        by_model.setdefault(base_name(step.model), ([], []))[0].append((place, step))
    for event in events:
        if event.model in by_model:
            by_model[event.model][1].append(event)
    found = {}
    for model, (placed, told) in by_model.items():
        chain = _Chain(model, told, first_request, now)
        kept = [(i, s) for n, (i, s) in enumerate(placed) if not _repeats(placed, n)]
        for n, (place, step) in enumerate(kept):
            found[place] = chain.follow(step, [later for _, later in kept[n + 1 :]])
    return [found[place] for place in sorted(found)]


def _repeats(placed: Sequence[tuple[int, Step]], n: int) -> bool:
    """Whether the step queues a model that the step before has queued."""
    return n > 0 and placed[n][1].action == placed[n - 1][1].action == "queue"


class _Chain:
    """Goes along the events of one model; each belongs to at most one step."""

    def __init__(
        self, model: str, events: Sequence[Event], first_request: FirstRequest, now: float
    ) -> None:
        self._model = model
        self._events = events
        self._at = 0
        """Index of the first event that belongs to no earlier step."""
        self._first_request = first_request
        self._now = now
        self._left: _Left | None = None
        """What has left the model unloaded, where that is known."""

    def follow(self, step: Step, later: Sequence[Step]) -> Outcome:
        """Return the outcome of ``step``; ``later``: the steps that follow it."""
        given: dict[str, Any] = {
            "decision": step.decision,
            "at": step.at,
            "author": step.author,
            "trigger": step.trigger,
            "fallback": step.fallback,
            "model": self._model,
            "action": step.action,
            "runtime": step.runtime,
        }
        match step.action:
            case "load":
                given |= self._load(step, later)
            case "unload":
                given |= self._unload(step, later)
            case _:
                if self._left is None and step.trigger in CHOICES:
                    self._left = _Left(step.at, step)
                given |= {"result": Result.QUEUED, **self._idle(step.at, later)}
        return Outcome(**given)

    # --- loads ----------------------------------------------------------------------------

    def _load(self, step: Step, later: Sequence[Step]) -> dict[str, Any]:
        until = later[0].at if later else math.inf
        end = self._next(step, until, *LOADED)
        if end is None or end.kind in ("model.aborted", "model.queued"):
            why = str(end.detail.get("reason", "")) if end else step.failure
            result = Result.WITHDRAWN if end or step.failure else Result.PENDING
            return {"result": result, "detail": why[:DETAIL_CHARACTERS]}
        seconds = end.detail.get("load_s", end.at - step.at)
        if end.kind == "model.failed":
            kind = str(end.detail.get("kind", ""))
            why = str(end.detail.get("reason", ""))[:DETAIL_CHARACTERS]
            self._left = self._left or _Left(end.at, step)
            return {"result": Result.FAILED, "kind": kind, "detail": why, "load_s": seconds}
        return {"load_s": seconds, **self._ready(step, end.at, later)}

    def _ready(self, step: Step, ready_at: float, later: Sequence[Step]) -> dict[str, Any]:
        """Return what came of a load that was ready."""
        # A model that is loaded again was not there any more, whether that was told or not.
        again = next((s.at for s in later if s.action == "load"), None)
        gone = self._peek(math.inf if again is None else again, "model.evicted", "model.lost")
        ended = gone.at if gone else again
        end = self._now if ended is None else ended
        out_since = self._left.at if self._left else step.at
        first = self._first_request(self._model, out_since, end)
        waited = step.trigger is Trigger.DEMAND or (first is not None and first < ready_at)
        charged = (self._left.by if self._left else step).decision if waited else ""
        self._left = None
        found: dict[str, Any] = {
            "result": Result.READY,
            "held_s": None if ended is None else end - ready_at,
            "cold_start_of": charged,
        }
        if waited or first is not None:
            found["asked_after_s"] = 0.0 if waited else (first or 0.0) - ready_at
        else:
            found["quiet_s"] = end - ready_at
        if gone is not None and gone.kind == "model.lost":
            self._at = self._events.index(gone, self._at) + 1
            self._left = _Left(gone.at, step)
            if kind := gone.detail.get("kind"):
                found |= {"result": Result.LOST, "kind": str(kind)}
        elif later and later[0].action == "unload" and later[0].cause != REPLACED:
            found["reversed"] = later[0].at - ready_at < SOON_S
        return found

    # --- others ---------------------------------------------------------------------------

    def _unload(self, step: Step, later: Sequence[Step]) -> dict[str, Any]:
        until = later[0].at if later else math.inf
        end = self._next(step, until, "model.evicted")
        if end is None:
            ended = step.failure or later
            return {
                "result": Result.STAYED if ended else Result.PENDING,
                "detail": step.failure[:DETAIL_CHARACTERS],
            }
        self._left = _Left(end.at, step)
        found = self._idle(end.at, later)
        again = found["again_after_s"]
        undone = again is not None and again < SOON_S and step.cause != REPLACED
        return {"result": Result.UNLOADED, "reversed": undone, **found}

    def _idle(self, since: float, later: Sequence[Step]) -> dict[str, Any]:
        """Return when an unloaded model was requested, and loaded again."""
        load = next((s for s in later if s.action == "load"), None)
        # On demand, a model is unloaded for another one's requests.
        wanted = (s.at for s in later if s.trigger is Trigger.DEMAND and s.action != "unload")
        demand = next(wanted, None)
        first = self._first_request(self._model, since, self._now)
        asked = min((at for at in (first, demand) if at is not None), default=None)
        return {
            "again_after_s": load.at - since if load else None,
            "asked_after_s": None if asked is None else max(0.0, asked - since),
            "quiet_s": self._now - since if asked is None else None,
        }

    # --- events ---------------------------------------------------------------------------

    def _next(self, step: Step, until: float, *kinds: str) -> Event | None:
        """Return the event that ends ``step``, which no other step has from now on."""
        for place in range(self._at, len(self._events)):
            event = self._events[place]
            if event.at > until:
                return None
            if event.at < step.at or event.kind not in kinds:
                continue
            if event.kind == "model.queued" and event.detail.get("decision") != step.decision:
                continue
            self._at = place + 1
            return event
        return None

    def _peek(self, until: float, *kinds: str) -> Event | None:
        """Return the next event of ``kinds``, which still belongs to the step that it ends."""
        for event in self._events[self._at :]:
            if event.at > until:
                return None
            if event.kind in kinds:
                return event
        return None
