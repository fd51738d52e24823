"""What authors of decisions have achieved, for comparing them (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from modelium.models import Frozen, Trigger
from modelium.models.outcomes import Outcome
from modelium.outcomes.trust import KindFigures


class AuthorFigures(Frozen):
    """Counts and seconds of the decisions of one author."""

    author: str
    """``rules``, ``llm``, ``operator``."""
    decisions: int = 0
    """That loaded, unloaded or queued a model."""
    fallbacks: int = 0
    """Of these, decisions that an LLM was asked for and the rules made."""
    loads: int = 0
    unloads: int = 0
    queued: int = 0
    cold_starts: int = 0
    """Loads that requests waited for, counted for the author whose decision had left the model
    unloaded: whose unload it was, or who queued it when it was new or in a review. The author of
    the load, where there was no such decision."""
    load_seconds: float = 0.0
    """Of the loads that were decided, failed ones included."""
    failures: int = 0
    """Loads that failed, and engines that were lost soon after."""
    reversals: int = 0
    """Loads and unloads that were undone within ten minutes."""
    never_asked: int = 0
    """Loads without a request until the unload, or for ten minutes."""


class BrainReport(Frozen):
    """The figures of all authors over a time."""

    since: float
    """Epoch seconds."""
    until: float
    oldest: float | None = None
    """When the oldest decision was made that the store has; ``None``: it has none."""
    trigger: Trigger | None = None
    """Decisions of this trigger alone; ``None``: of all."""
    authors: tuple[AuthorFigures, ...] = ()
    """In order of their names."""
    departures: tuple[KindFigures, ...] = ()
    """Of the kinds that `brain.may` allows."""


def report(
    outcomes: Sequence[Outcome],
    *,
    since: float,
    until: float,
    oldest: float | None = None,
    trigger: Trigger | None = None,
) -> BrainReport:
    """Return the figures of the decisions since ``since``.

    A cold start counts where its load was decided in that time, whenever the decision was made
    that is charged with it.

    Args:
        outcomes: of these decisions; also of older ones, which can be charged with cold starts.
        since: epoch seconds.
        until: epoch seconds.
        oldest: see `BrainReport`.
        trigger: only decisions of this trigger.
    """
    wanted = [o for o in outcomes if trigger in (None, o.trigger)]
    authors = {o.decision: o.author for o in wanted}
    cold = [o.cold_start_of for o in outcomes if o.at >= since and o.cold_start_of in authors]
    charged = [authors[decision] for decision in cold]
    counted = [o for o in wanted if o.at >= since]
    return BrainReport(
        since=since,
        until=until,
        oldest=oldest,
        trigger=trigger,
        authors=tuple(
            _figures(author, [o for o in counted if o.author == author], charged.count(author))
            for author in sorted({*charged, *(o.author for o in counted)})
        ),
    )


def _figures(author: str, own: Sequence[Outcome], cold_starts: int) -> AuthorFigures:
    actions = [o.action for o in own]
    return AuthorFigures(
        author=author,
        decisions=len({o.decision for o in own}),
        fallbacks=len({o.decision for o in own if o.fallback}),
        loads=actions.count("load"),
        unloads=actions.count("unload"),
        queued=actions.count("queue"),
        cold_starts=cold_starts,
        load_seconds=round(sum(o.load_s or 0.0 for o in own), 3),
        failures=sum(o.failed for o in own),
        reversals=sum(o.reversed for o in own),
        never_asked=sum(o.never_asked for o in own),
    )
