"""The status of a runtime with one process per model."""

from __future__ import annotations

from tests.runtimes.fake_vllm import Make


async def test_status_tells_what_to_set_where_the_command_is_missing(make: Make) -> None:
    assert (await make().status()).healthy
    status = await make(executable="/nonexistent/vllm").status()
    assert not status.healthy
    assert "vllm.executable" in status.detail
