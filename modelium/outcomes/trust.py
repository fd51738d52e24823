"""What came of an LLM's departures from the rules, by kind (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from modelium.models import Departure, DepartureKind, Frozen
from modelium.policy.departures import REMEMBERED_S, is_trusted, was_wrong


class KindFigures(Frozen):
    """Departures of one kind."""

    kind: DepartureKind
    carried_out: int
    shadows: int
    """Only recorded."""
    right: int
    """Of both, that turned out right."""
    wrong: int
    trusted: bool
    """Whether the next one would be carried out."""


def by_kind(
    departures: Sequence[Departure],
    kinds: Iterable[DepartureKind],
    *,
    since: float,
    now: float,
) -> tuple[KindFigures, ...]:
    """Return the figures of ``kinds`` since ``since`` (epoch), in their order.

    ``departures``: the newest first; also older ones, by which a kind is trusted.
    """
    late = [d for d in departures if d.at > now - REMEMBERED_S]
    found = []
    for kind in kinds:
        own = [d for d in departures if d.kind is kind and d.at > since]
        verdicts = [was_wrong(d) for d in own]
        found.append(
            KindFigures(
                kind=kind,
                carried_out=sum(not d.shadow for d in own),
                shadows=sum(d.shadow for d in own),
                right=verdicts.count(False),
                wrong=verdicts.count(True),
                trusted=is_trusted(kind, late),
            )
        )
    return tuple(found)
