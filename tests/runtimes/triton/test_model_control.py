"""Triton's refusals, and a model that hangs a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelium.errors import FailureKind, LoadFailed
from modelium.models import ModelFormat
from runtimes.loading.failure_kind import classify
from runtimes.triton.driver import TritonDriver
from runtimes.triton.model_control import FAILURES
from tests.runtimes.conformance import benches
from tests.runtimes.requests import no_progress, profile, request
from tests.runtimes.triton.drops import drop


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("failed to load 'm', failed to poll from model repository", FailureKind.BAD_FILES),
        ("at least one version must be available under the version policy", FailureKind.BAD_FILES),
        (
            "InvalidProtobuf: Load model from x failed:Protobuf parsing failed",
            FailureKind.BAD_FILES,
        ),
        ("unable to find backend library for backend 'openvino'", FailureKind.UNSUPPORTED),
        (
            "instance group m_0 of model m has kind KIND_GPU but no GPUs are available",
            FailureKind.BAD_SETTINGS,
        ),
        ("CUDA error: out of memory", FailureKind.OUT_OF_MEMORY),
        (
            "explicit model load / unload is not allowed if polling is enabled",
            FailureKind.BAD_SETTINGS,
        ),
    ],
)
def test_tritons_refusals_have_kinds(text: str, kind: FailureKind) -> None:
    assert classify([text], None, FAILURES) == kind


HANGING = """
import time

class TritonPythonModel:
    def initialize(self, args):
        time.sleep(3600)

    def execute(self, requests):
        return []
"""


PYTHON_ENTRY = """
backend: "python"
input [ { name: "a" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "b" data_type: TYPE_FP32 dims: [ 1 ] } ]
"""


@pytest.mark.real
async def test_a_model_that_hangs_the_server_is_stuck_and_others_still_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimes.triton.model_control.ABORT_S", 1.0)
    bench = benches.triton(tmp_path)
    entry = drop(tmp_path / "hanging", config_pbtxt=PYTHON_ENTRY, **{"1__model_py": HANGING})
    hanging = request(
        entry,
        profile=profile(ModelFormat.TRITON, architecture="python", files={"model": "1/model.py"}),
        allow_remote_code=True,
        deadline_s=3,
    )
    async with bench.driver() as driver:
        assert isinstance(driver, TritonDriver)
        try:
            for _ in range(2):
                with pytest.raises(LoadFailed) as failure:
                    await driver.load(hanging, progress=no_progress)
                assert failure.value.kind == FailureKind.STUCK
            (running,) = await driver.discover({})
            assert (running.model, running.state) == ("hanging", "unhealthy")
            assert "hanging" in (await driver.status()).detail
            await bench.ask(await driver.load(bench.request("fine"), progress=no_progress))
        finally:
            await driver.end(grace_s=1)
