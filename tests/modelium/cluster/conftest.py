"""Nodes in one process over a real PostgreSQL; time passes when a test says so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.nodes.cluster import Cluster
from tests.postgresql import Server


@pytest.fixture
async def cluster(server: Server, tmp_path: Path) -> AsyncIterator[Cluster]:
    """A cluster without nodes; what must hold always is looked at after the test."""
    opened = Cluster(server, tmp_path)
    yield opened
    found = opened.violations()
    await opened.aclose()
    assert not found, "\n".join(found)
