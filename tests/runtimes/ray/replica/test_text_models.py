from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from tests import samples
from tests.runtimes.conftest import LocalRay
from tests.runtimes.ray.serving import infer, quiet, request, texts

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("ray"),
]


async def test_text_classification_and_generation(local_ray: LocalRay, tmp_path: Path) -> None:
    classifier = samples.tiny_classifier(tmp_path / "c")
    generator = samples.tiny_generator(tmp_path / "g")
    judge, writer = await asyncio.gather(
        local_ray.driver.load(request("judge", tmp_path / "c", classifier), progress=quiet),
        local_ray.driver.load(request("writer", tmp_path / "g", generator), progress=quiet),
    )
    answer = await infer(judge.upstream, texts("a good film", "bad"))
    assert set(answer["label"]) <= {"good", "bad"} and len(answer["label"]) == 2
    np.testing.assert_allclose(np.array(answer["scores"]).reshape(2, 2).sum(1), 1, atol=1e-5)
    greedy = {"max_new_tokens": 5, "do_sample": False}
    written = await infer(writer.upstream, texts("this is"), **greedy)
    assert "generated_text" in written["result"][0]
    assert written == await infer(writer.upstream, texts("this is"), **greedy)
    for name in ("judge", "writer"):
        await local_ray.driver.unload(name, handle={}, grace_s=5)
