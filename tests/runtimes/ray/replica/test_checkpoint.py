from __future__ import annotations

from pathlib import Path

import pytest

from modelium.errors import (
    FailureKind,
    LoadFailed,
)
from tests import samples
from tests.runtimes.conftest import LocalRay
from tests.runtimes.ray.serving import quiet, request

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("ray"),
]


async def test_a_checkpoint_without_its_head_is_refused(
    local_ray: LocalRay, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    profile = samples.tiny_classifier(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LoadFailed, match="classifier") as failed:
        await local_ray.driver.load(request("headless", tmp_path, profile), progress=quiet)
    assert failed.value.kind == FailureKind.BAD_FILES
