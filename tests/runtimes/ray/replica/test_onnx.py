from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest
from tritonclient.http.aio import InferenceServerClient, InferInput

from modelium.models import RuntimeName
from tests import samples
from tests.runtimes.conftest import LocalRay
from tests.runtimes.ray.serving import MIB, SOON_S, key_of, request

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("ray"),
]


async def test_a_real_onnx_model_answers_as_onnxruntime_does(
    local_ray: LocalRay, tmp_path: Path
) -> None:
    import onnxruntime

    profile, phases = samples.magika_onnx(tmp_path), list[str]()
    loaded = await local_ray.driver.load(
        request("magika", tmp_path, profile), progress=lambda phase, share: phases.append(phase)
    )
    assert "deploying" in phases
    assert loaded.upstream.prefix == "/magika"
    assert loaded.upstream.apis == {"kserve", "generic"}
    status = await local_ray.driver.status()
    assert status.healthy and status.name == RuntimeName.RAY_SERVE and not status.can_sleep

    given, key = np.zeros((2, 2048), dtype=np.int32), key_of(loaded.upstream)
    async with httpx.AsyncClient(trust_env=False, timeout=SOON_S) as foreign:
        for headers in ({}, {"Authorization": "Bearer guess"}):
            refused = await foreign.post(
                f"{loaded.upstream.base_url}/v2/models/magika/infer", json={}, headers=headers
            )
            assert refused.status_code == 401, "Serve's proxy asks for no key"
    client = InferenceServerClient(loaded.upstream.base_url.removeprefix("http://"))
    try:
        metadata = await client.get_model_metadata("magika", headers=key)
        assert metadata["inputs"][0]["name"] == "bytes"
        assert await client.is_model_ready("magika", headers=key)
        tensor = InferInput("bytes", [2, 2048], "INT32")
        tensor.set_data_from_numpy(given)
        answer = (await client.infer("magika", [tensor], headers=key)).as_numpy("target_label")
    finally:
        await client.close()
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    np.testing.assert_allclose(answer, session.run(None, {"bytes": given})[0], atol=1e-5)

    stats = (await local_ray.driver.stats())["magika"]
    assert stats.resident_bytes and stats.resident_bytes > 10 * MIB
    await local_ray.driver.unload("magika", handle=loaded.handle, grace_s=5)
