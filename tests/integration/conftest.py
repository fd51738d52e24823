"""The service that most tests share: Ray Serve, an embedded Prefect server, no torch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import engines
from tests.integration.service import Service


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    running = Service(
        tmp_path_factory.mktemp("service"), settings={"ray_serve": engines.ray_serve()}
    )
    try:
        running.start()
        running.eventually(running.recording)
        yield running
    finally:
        running.down()
    assert running.remains() == []
