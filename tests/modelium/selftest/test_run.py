"""The report of a whole run, without runtimes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelium.config import Config
from modelium.devices import detect
from modelium.selftest import SelfTestReport, run
from tests.fakes.cuda import CudaGpu, FakeCuda
from tests.fakes.nvml import FakeNvml

RECORDED = Path(__file__).parents[2] / "data/nvml/h200.json"


async def test_a_report_replays_as_the_machine_it_was_made_on(
    fake_nvml: FakeNvml, fake_cuda: FakeCuda
) -> None:
    fake_nvml.load(json.loads(RECORDED.read_text()))
    (uuid,) = fake_nvml.gpus
    fake_cuda.lists([CudaGpu(uuid=uuid, bus="0000:06:00.0")])
    shown: list[str] = []
    report = await run(Config(), show=lambda check: shown.append(check.name))
    assert shown == [check.name for check in report.checks] and not report.failed
    there = detect("n").snapshot()

    sent = SelfTestReport.model_validate_json(report.model_dump_json())
    fake_nvml.remove(uuid)
    fake_nvml.load(sent.nvml)
    assert detect("n").snapshot() == there


@pytest.mark.usefixtures("fake_nvml")
async def test_a_driver_that_is_broken_is_a_failed_check(fake_nvml: FakeNvml) -> None:
    fake_nvml.fail_init(18)
    report = await run(Config())
    assert [check.name for check in report.failed] == ["devices"]
    assert "repair the NVIDIA driver" in report.failed[0].detail
    assert report.nvml["init"]["error"] == 18
