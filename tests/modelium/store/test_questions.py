"""What nodes ask of the one that plans."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from modelium.models import Traffic
from modelium.store import Store, schema
from modelium.store.connection import connect
from modelium.store.questions import KEPT_S
from tests.modelium.store.conftest import ON_POSTGRESQL
from tests.modelium.store.test_nodes import REPORT, join


def test_a_question_is_open_until_it_is_answered_and_the_first_answer_stands(store: Store) -> None:
    for id in ("one", "two"):
        store.questions.ask(id, node="a", document={"model": id})
    assert [(q.id, q.node, q.document) for q in store.questions.open()] == [
        ("one", "a", {"model": "one"}),
        ("two", "a", {"model": "two"}),
    ]
    assert store.questions.answered("one") is None
    store.questions.answer("one", {"decision": 1})
    store.questions.answer("one", {"decision": 2})
    assert store.questions.answered("one") == {"decision": 1}
    assert [q.id for q in store.questions.open()] == ["two"]
    store.questions.answer("none", {})
    assert store.questions.answered("none") is None


def test_nobody_answers_what_is_forgotten(store: Store) -> None:
    store.questions.ask("one", node="a", document={})
    store.questions.forget("one")
    store.questions.answer("one", {})
    assert (store.questions.open(), store.questions.answered("one")) == ((), None)


def test_nobody_answers_what_was_asked_long_ago(store: Store) -> None:
    store.questions.ask("one", node="a", document={})
    with store._engine.begin() as tx:
        tx.execute(sa.update(schema.questions).values(at=schema.questions.c.at - KEPT_S))
    assert store.questions.open() == ()


def test_old_questions_go_answered_or_not(store: Store) -> None:
    for id in ("answered", "open", "new"):
        store.questions.ask(id, node="a", document={})
    store.questions.answer("answered", {})
    table = schema.questions
    with store._engine.begin() as tx:
        old = {"at": table.c.at - KEPT_S}
        tx.execute(sa.update(table).where(table.c.id != "new").values(**old))
    store.questions.prune()
    with store._engine.connect() as tx:
        assert tx.scalars(sa.select(table.c.id)).all() == ["new"]


@pytest.mark.parametrize("url", [ON_POSTGRESQL], indirect=True)
def test_a_node_writes_its_own_rows_while_another_one_plans(store: Store, url: str) -> None:
    """The plan's transaction is open all the time; whoever waited for it would never end."""
    join(store, "a")
    store.act_as("a")
    other = connect(url)
    with other.begin() as tx:
        tx.exec_driver_sql("UPDATE meta SET value = value + 1")
        assert store.nodes.beat("a", identity="of a", report=REPORT)
        store.nodes.note_copies("a", [("m", 1)])
        store.history.record_traffic({"m": Traffic(completed=1)})
        store.history.publish({"m": Traffic(pending=1)})
        store.questions.ask("q", node="a", document={})
        store.questions.answer("q", {})
        store.questions.prune()
        store.questions.forget("q")
    other.dispose()
