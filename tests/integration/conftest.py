"""The service that most tests here share: Ray Serve, an embedded Prefect server, no torch."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests import engines
from tests.integration.service import START_S, Service


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    running = Service(
        tmp_path_factory.mktemp("service"), settings={"ray_serve": engines.ray_serve()}
    )
    try:
        running.start()
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if "stages are recorded" in (running.folder / "service.log").read_text():
                break
            time.sleep(0.5)
        yield running
    finally:
        running.down()
    assert running.remains() == []
