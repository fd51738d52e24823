"""The vLLM driver's own part: the version of the installed engine."""

from __future__ import annotations

from pathlib import Path

from modelium.config import Vllm as VllmSection
from runtimes.vllm.driver import vllm_driver
from tests.runtimes.clock import FakeClock
from tests.runtimes.requests import Inventory


async def test_the_version_is_read_from_the_metadata_of_the_environment(tmp_path: Path) -> None:
    command = tmp_path / "bin/vllm"
    command.parent.mkdir()
    command.touch(mode=0o755)
    (tmp_path / "lib/python3.11/site-packages/vllm-0.32.1.dist-info").mkdir(parents=True)
    driver = vllm_driver(
        config=VllmSection(enabled=True, executable=str(command)),
        state_directory=tmp_path,
        clock=FakeClock(),
        devices=Inventory(),
    )
    async with driver:
        assert (await driver.status()).version == "0.32.1"
