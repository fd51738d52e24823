"""The figures of each author."""

from __future__ import annotations

from modelium.models import Trigger
from modelium.outcomes.report import AuthorFigures, BrainReport, report
from tests.modelium.outcomes.chains import NOW, Chain

DEMAND, INGEST, REVIEW = Trigger.DEMAND, Trigger.INGEST, Trigger.REVIEW


def history() -> Chain:
    """The LLM loads `a` in vain and unloads `b`, which is missed; the rules load it again."""
    chain = Chain()
    chain.loaded(1000, 1010, author="llm", trigger=INGEST, decision="one")
    chain.loaded(1000, 1030, "b", decision="two", fallback=True).asked(1040, model="b")
    chain.unloaded(1500, author="llm", trigger=REVIEW, decision="three")
    chain.unloaded(1500, "b", author="llm", trigger=REVIEW, decision="three")
    chain.queue(1600, "b", trigger=DEMAND, decision="four")
    chain.load(1610, "b", trigger=DEMAND, decision="five")
    chain.told(1613, "failed", "b", kind="stuck")
    chain.loaded(1620, 1624.5004, "b", trigger=DEMAND, decision="six").asked(1600, model="b")
    return chain


def figured(since: float = 0.0, trigger: Trigger | None = None) -> dict[str, AuthorFigures]:
    found = report(history().found(), since=since, until=NOW, trigger=trigger)
    assert (found.since, found.until, found.trigger) == (since, NOW, trigger)
    assert [f.author for f in found.authors] == sorted(f.author for f in found.authors)
    return {f.author: f for f in found.authors}


def test_each_author_is_charged_with_what_came_of_its_decisions() -> None:
    assert figured() == {
        "llm": AuthorFigures(
            author="llm",
            decisions=2,
            loads=1,
            unloads=2,
            cold_starts=1,
            load_seconds=10,
            reversals=2,
            never_asked=1,
        ),
        "rules": AuthorFigures(
            author="rules",
            decisions=4,
            fallbacks=1,
            loads=3,
            queued=1,
            load_seconds=37.5,
            failures=1,
            reversals=1,
        ),
    }


def test_a_trigger_selects_decisions_and_the_cold_starts_that_they_led_to() -> None:
    assert figured(trigger=REVIEW) == {
        "llm": AuthorFigures(author="llm", decisions=1, unloads=2, cold_starts=1, reversals=1)
    }
    rules = AuthorFigures(
        author="rules", decisions=3, loads=2, queued=1, load_seconds=7.5, failures=1
    )
    assert figured(trigger=DEMAND) == {"rules": rules}


def test_a_cold_start_counts_when_it_happened_not_when_it_was_caused() -> None:
    found = figured(since=1600)
    assert found["llm"] == AuthorFigures(author="llm", cold_starts=1)
    assert (found["rules"].decisions, found["rules"].loads) == (3, 2)
    assert figured(since=1620)["llm"].cold_starts == 1
    assert set(figured(since=1620.5)) == set()


def test_without_decisions_there_is_no_author() -> None:
    assert report([], since=1.0, until=2.0) == BrainReport(since=1.0, until=2.0)
