from __future__ import annotations

import base64
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests import samples
from tests.runtimes.conftest import LocalRay
from tests.runtimes.ray.serving import MIB, infer, key_of, post, quiet, request, texts

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("ray"),
]


async def test_a_diffusers_pipeline_paints(
    local_ray: LocalRay, tmp_path: Path, replica_python: str
) -> None:
    profile = samples.tiny_diffusion(tmp_path / "sd", python=replica_python)
    painter = request("painter", tmp_path / "sd", profile, reserve=1024 * MIB)
    loaded = await local_ray.driver.load(painter, progress=quiet)
    small = {"num_inference_steps": 2, "height": 16, "width": 16, "seed": 7}
    image = np.array((await infer(loaded.upstream, texts("a cat", "a dog"), **small))["image"])
    assert image.size == 2 * 16 * 16 * 3
    assert image.min() >= 0 and image.max() <= 255 and image.std() > 1
    again = await infer(loaded.upstream, texts("a cat", "a dog"), **small)
    assert (np.array(again["image"]) == image).all(), "the same seed paints the same"
    painted = await post(
        loaded.upstream,
        "/v1/images/generations",
        prompt="a cat",
        n=2,
        size="16x24",
        num_inference_steps=2,
        seed=7,
    )
    pictures = [base64.b64decode(one["b64_json"]) for one in painted["data"]]
    header = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + b"\0\0\0\x10" + b"\0\0\0\x18"
    assert [picture[:24] for picture in pictures] == [header] * 2
    url = f"{loaded.upstream.base_url}/v2/models/painter/infer"
    body = {"inputs": [texts("a cat")], "parameters": {"height": 100_000}}
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        refused = await client.post(url, json=body, headers=key_of(loaded.upstream))
    assert refused.status_code == 400
    assert "height must be a whole number from 1 to 2048" in refused.text
    await local_ray.driver.unload("painter", handle={}, grace_s=5)
