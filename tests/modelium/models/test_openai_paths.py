from __future__ import annotations

import pytest

from modelium.models import LoadSettings, ModelFormat, ModelProfile, RuntimeName, Task
from modelium.models.openai_paths import OPENAI_PATHS, served_paths

V, R, L, T = RuntimeName.VLLM, RuntimeName.RAY_SERVE, RuntimeName.LLAMA_CPP, RuntimeName.TRITON


def profile(task: Task, format: ModelFormat = ModelFormat.TRANSFORMERS) -> ModelProfile:
    return ModelProfile(format=format, architecture="X", task=task, weight_bytes=1)


@pytest.mark.parametrize(
    ("runtime", "task", "served", "not_served"),
    [
        (V, Task.TEXT_GENERATION, "/v1/chat/completions", "/v1/embeddings"),
        (V, Task.SPEECH_RECOGNITION, "/v1/audio/transcriptions", "/v1/chat/completions"),
        (V, Task.EMBEDDING, "/pooling", "/v1/completions"),
        (V, Task.TEXT_RANKING, "/v2/rerank", "/v1/embeddings"),
        (V, Task.TEXT_CLASSIFICATION, "/classify", "/v1/chat/completions"),
        (L, Task.TEXT_GENERATION, "/v1/chat/completions", "/v1/audio/speech"),
        (R, Task.TEXT_RANKING, "/rerank", "/classify"),
        (R, Task.TEXT_TO_IMAGE, "/v1/images/generations", "/v1/chat/completions"),
        (R, Task.EMBEDDING, "/v1/embeddings", "/rerank"),
    ],
)
def test_each_task_has_its_paths(
    runtime: RuntimeName, task: Task, served: str, not_served: str
) -> None:
    paths = served_paths(runtime, profile(task), LoadSettings())
    assert paths is not None and paths <= OPENAI_PATHS
    assert served in paths and not_served not in paths


def test_a_text_model_on_ray_serve_and_any_on_triton_have_none() -> None:
    assert served_paths(R, profile(Task.TEXT_GENERATION), LoadSettings()) == frozenset()
    onnx = profile(Task.EMBEDDING, ModelFormat.ONNX)
    assert served_paths(R, onnx, LoadSettings()) == frozenset()
    assert served_paths(T, onnx, LoadSettings()) == frozenset()


def test_where_the_task_is_not_certain_nothing_is_excluded() -> None:
    assert served_paths(V, None, LoadSettings()) is None
    assert served_paths(R, profile(Task.GENERIC, ModelFormat.CUSTOM), LoadSettings()) is None
    converted = LoadSettings(extra={"convert": "embed"})
    assert served_paths(V, profile(Task.TEXT_GENERATION), converted) is None
