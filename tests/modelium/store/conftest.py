"""Stores in a folder of their own, on a fake clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelium.store import Store
from tests.databases import migrated
from tests.fakes.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{migrated(tmp_path / 'modelium.db')}"


@pytest.fixture
def store(url: str, clock: FakeClock) -> Iterator[Store]:
    opened = Store.open(url, now=clock.time)
    yield opened
    opened.close()
