"""Machines are upgraded one after the other: an older one goes on with what a newer one added."""

from __future__ import annotations

import ast
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from modelium.errors import InputError
from modelium.models import NodeReport
from modelium.store import Store, connection, schema
from modelium.store.connection import MIGRATIONS, connect
from tests.fakes.clock import FakeClock
from tests.modelium.store.test_store import register

ADDED = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "9999", "{head}"

def upgrade():
    op.create_table("news", sa.Column("id", sa.Integer, primary_key=True))
    op.add_column("nodes", sa.Column("mood", sa.String(8)))
    op.add_column("models", sa.Column("mood", sa.String(8), nullable=False, server_default="good"))
    {more}
"""
CHANGED = "op.execute(\"UPDATE meta SET value = 9999 WHERE key = 'since'\")"

CHANGES = {"drop_column", "drop_table", "alter_column", "rename_table", "drop_constraint"}
"""Of alembic's operations those that older versions may not bear."""


def revisions() -> list[Path]:
    return sorted((MIGRATIONS / "versions").glob("[0-9]*.py"))


def upgraded(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, more: str) -> None:
    """Have the next version of Modelium open the store at ``url``."""
    newer = folder / "migrations"
    shutil.copytree(MIGRATIONS, newer, ignore=shutil.ignore_patterns("__pycache__"))
    head = revisions()[-1].name[:4]
    (newer / "versions" / "9999_news.py").write_text(ADDED.format(head=head, more=more))
    with monkeypatch.context() as next_version:
        next_version.setattr(connection, "MIGRATIONS", newer)
        Store.open(url, now=lambda: 1.0).close()


@pytest.fixture
def grown(
    empty_url: str, tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """A store that the next version has added to, opened by this one."""
    upgraded(empty_url, tmp_path, monkeypatch, more="")
    opened = Store.open(empty_url, now=clock.time)
    yield opened
    opened.close()


def test_an_older_machine_goes_on_and_says_so(
    grown: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    Store.open(grown._engine.url.render_as_string(hide_password=False), now=lambda: 1.0).close()
    assert "should be upgraded soon" in caplog.text

    register(grown, "m")
    grown.nodes.join("a", identity="i", token=None, report=NodeReport())
    assert grown.nodes.beat("a", identity="i", report=NodeReport(version="1"))
    assert [model.name for model in grown.view()[1]] == ["m"]


def test_fields_that_only_the_newer_one_knows_are_left_out(grown: Store) -> None:
    grown.nodes.join("a", identity="i", token=None, report=NodeReport(version="2"))
    news = {**NodeReport(version="2").model_dump(mode="json"), "mood": "good"}
    with grown._engine.begin() as tx:
        tx.execute(
            sa.update(schema.nodes).values(document=news, seen_at=schema.nodes.c.seen_at + 1)
        )
    (node,) = grown.nodes.all()
    assert node.report == NodeReport(version="2")


def test_an_older_machine_stops_where_more_was_changed(
    empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgraded(empty_url, tmp_path, monkeypatch, more=CHANGED)
    with pytest.raises(InputError, match=r"revision 9999.*upgrade Modelium on this machine"):
        Store.open(empty_url, now=lambda: 1.0)
    engine = connect(empty_url)
    with engine.connect() as tx:
        assert tx.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == "9999"
    engine.dispose()


def test_a_migration_that_does_more_than_add_says_so() -> None:
    found = {}
    for file in revisions()[17:]:
        upgrade = file.read_text()
        called = {n.attr for n in ast.walk(ast.parse(upgrade)) if isinstance(n, ast.Attribute)}
        found[file.name] = bool(called & CHANGES) and "'since'" not in upgrade
    assert found, "the first of them sets `since`"
    assert not any(found.values()), found
