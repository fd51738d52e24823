from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from openai import AsyncOpenAI

from modelium.models import LoadSettings
from tests import samples
from tests.runtimes.conftest import LocalRay
from tests.runtimes.ray.serving import MIB, infer, quiet, request, texts

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("ray"),
]


async def test_sentence_embeddings_over_openais_api(local_ray: LocalRay, tmp_path: Path) -> None:
    profile = samples.minilm(tmp_path)
    wanted = request(
        "minilm", tmp_path, profile, reserve=1024 * MIB, settings=LoadSettings(max_num_seqs=8)
    )
    loaded = await local_ray.driver.load(wanted, progress=quiet)
    assert "openai" in loaded.upstream.apis
    sentences = [
        "That is a happy person",
        "That is a happy dog",
        "That is a very happy person",
        "Today is a sunny day",
    ]
    async with AsyncOpenAI(
        base_url=f"{loaded.upstream.base_url}/v1", api_key=loaded.upstream.api_key
    ) as client:
        packed = await client.embeddings.create(model="minilm", input=sentences)
        plain = await client.embeddings.create(
            model="minilm", input=sentences[1], encoding_format="float"
        )
        ids = await client.embeddings.create(
            model="minilm", input=[101, 2008, 2003, 1037, 3407, 3899, 102], encoding_format="float"
        )
    vectors = np.array([row.embedding for row in packed.data])
    # The figures on the model's card.
    np.testing.assert_allclose(vectors @ vectors[0], [1, 0.695, 0.943, 0.257], atol=1e-3)
    np.testing.assert_allclose(plain.data[0].embedding, vectors[1], atol=1e-5)
    np.testing.assert_allclose(ids.data[0].embedding, vectors[1], atol=1e-5)
    assert plain.usage.prompt_tokens == 7
    answer = await infer(loaded.upstream, texts(sentences[0]))
    np.testing.assert_allclose(answer["embedding"], vectors[0], atol=1e-5)
    await local_ray.driver.unload("minilm", handle={}, grace_s=5)
