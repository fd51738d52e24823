from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from modelium.models import Task
from tests import samples
from tests.runtimes.conftest import LocalRay
from tests.runtimes.ray.serving import infer, post, quiet, request, texts

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("ray"),
]


async def test_a_cross_encoder_ranks_documents(local_ray: LocalRay, tmp_path: Path) -> None:
    profile = samples.tiny_classifier(tmp_path, labels=("LABEL_0",))
    profile = profile.model_copy(update={"task": Task.TEXT_RANKING})
    ranker = await local_ray.driver.load(request("ranker", tmp_path, profile), progress=quiet)
    texts_of_it = ["a good film", "bad", "good"]
    scores = await post(ranker.upstream, "/score", text_1="film", text_2=texts_of_it)
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        ranked = await post(ranker.upstream, path, query="film", documents=texts_of_it)
        found = {one["index"]: one["relevance_score"] for one in ranked["results"]}
        for index, one in enumerate(scores["data"]):
            assert found[index] == pytest.approx(one["score"], abs=1e-5)
        assert list(found.values()) == sorted(found.values(), reverse=True)
    assert ranked["usage"]["total_tokens"] == scores["usage"]["total_tokens"] > 0
    await local_ray.driver.unload("ranker", handle={}, grace_s=5)


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
    classes = await post(judge.upstream, "/classify", input=["a good film", "bad"])
    probs = np.array([one["probs"] for one in classes["data"]])
    np.testing.assert_allclose(probs.ravel(), answer["scores"], atol=1e-5)
    assert [one["label"] for one in classes["data"]] == answer["label"]
    greedy = {"max_new_tokens": 5, "do_sample": False}
    written = await infer(writer.upstream, texts("this is"), **greedy)
    assert "generated_text" in written["result"][0]
    assert written == await infer(writer.upstream, texts("this is"), **greedy)
    for name in ("judge", "writer"):
        await local_ray.driver.unload(name, handle={}, grace_s=5)
