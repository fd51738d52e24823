"""The status of a runtime with one process per model."""

from __future__ import annotations

from tests.runtimes.fake_vllm import Make


async def test_status_names_the_setting_of_a_missing_command(make: Make) -> None:
    assert (await make().status()).healthy
    status = await make(executable="/nonexistent/vllm").status()
    assert not status.healthy
    assert "vllm.executable" in status.detail
