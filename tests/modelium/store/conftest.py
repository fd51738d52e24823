"""Stores on a fake clock: in a folder of their own, and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelium.store import Store
from tests import postgresql
from tests.databases import migrated
from tests.fakes.clock import FakeClock

ON_POSTGRESQL = pytest.param(
    "postgresql", marks=[pytest.mark.real, pytest.mark.xdist_group("postgresql")]
)
BOTH = ("sqlite", ON_POSTGRESQL)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=BOTH)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a store of the present schema. `sqlite_url`: for what only a file can show."""
    if request.param == "postgresql":
        server: postgresql.Server = request.getfixturevalue("server")
        return server.emptied()
    return f"sqlite:///{migrated(tmp_path / 'modelium.db')}"


@pytest.fixture(params=BOTH)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a database without tables."""
    if request.param == "postgresql":
        server: postgresql.Server = request.getfixturevalue("server")
        return server.database(migrated=False)
    return f"sqlite:///{tmp_path / 'empty.db'}"


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{migrated(tmp_path / 'modelium.db')}"


@pytest.fixture
def store(url: str, clock: FakeClock) -> Iterator[Store]:
    opened = Store.open(url, now=clock.time)
    yield opened
    opened.close()
