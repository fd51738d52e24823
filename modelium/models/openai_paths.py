"""The paths of OpenAI's API, and of its relatives, that models serve (no I/O here)."""

from __future__ import annotations

from modelium.models.base import RuntimeName
from modelium.models.profile import LoadSettings, ModelFormat, ModelProfile, Task

TOKENS = frozenset({"/tokenize", "/detokenize"})
GENERATION = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})
EMBEDDINGS = frozenset({"/v1/embeddings"})
RANKING = frozenset({"/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score"})
CLASSIFICATION = frozenset({"/classify"})
POOLING = frozenset({"/pooling"})
TRANSCRIPTION = frozenset({"/v1/audio/transcriptions", "/v1/audio/translations"})
"""Their requests are multipart forms; all others are JSON."""
SPEECH = frozenset({"/v1/audio/speech"})
IMAGES = frozenset({"/v1/images/generations"})

OPENAI_PATHS = frozenset().union(
    *(TOKENS, GENERATION, EMBEDDINGS, RANKING, CLASSIFICATION, POOLING),
    *(TRANSCRIPTION, SPEECH, IMAGES),
)
"""An allow-list: engines also have management routes, which must not be reachable."""

VLLM: dict[Task, frozenset[str]] = {
    Task.TEXT_GENERATION: GENERATION | TOKENS,
    # Some of them also transcribe; vLLM tells which do not.
    Task.IMAGE_TEXT_TO_TEXT: GENERATION | TOKENS | TRANSCRIPTION,
    Task.EMBEDDING: EMBEDDINGS | POOLING | RANKING | TOKENS,
    Task.TEXT_CLASSIFICATION: CLASSIFICATION | POOLING | TOKENS,
    Task.TEXT_RANKING: RANKING | CLASSIFICATION | POOLING | TOKENS,
    Task.SPEECH_RECOGNITION: TRANSCRIPTION,
}
RAY_SERVE: dict[Task, frozenset[str]] = {
    Task.EMBEDDING: EMBEDDINGS,
    Task.TEXT_CLASSIFICATION: CLASSIFICATION,
    Task.TEXT_RANKING: RANKING,
    Task.TEXT_TO_IMAGE: IMAGES,
}
LLAMA_CPP = GENERATION | EMBEDDINGS | TOKENS | frozenset({"/rerank", "/v1/rerank"})
"""llama-server has all of them and tells which ones a model does not serve."""
CONVERSIONS = frozenset({"task", "runner", "convert"})
"""vLLM's arguments that change the task of a model."""


def served_paths(
    runtime: RuntimeName, profile: ModelProfile | None, settings: LoadSettings
) -> frozenset[str] | None:
    """Return the paths that ``runtime`` serves for such a model; ``None``: any may be served."""
    if profile is None or profile.format is ModelFormat.CUSTOM:
        return None
    if runtime is RuntimeName.RAY_SERVE:
        tensors_only = profile.format is ModelFormat.ONNX
        return frozenset() if tensors_only else RAY_SERVE.get(profile.task, frozenset())
    if runtime is RuntimeName.LLAMA_CPP:
        return LLAMA_CPP
    if runtime is RuntimeName.VLLM:
        speaks = profile.architecture.startswith("Voxtral")
        converted = CONVERSIONS.intersection(settings.extra)
        return None if speaks or converted else VLLM.get(profile.task)
    return frozenset()
