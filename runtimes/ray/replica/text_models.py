"""Text classification, token classification and text generation with transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.ray.replica.checkpoint import TEXT, load_tokenizer, load_weights, texts_of
from runtimes.ray.replica.tensors import Array, BadRequest, Spec

PIPELINES = {
    "text-generation": "AutoModelForCausalLM",
    "token-classification": "AutoModelForTokenClassification",
}
GENERATION = frozenset({"max_new_tokens", "temperature", "top_k", "top_p", "do_sample"})
"""Request parameters that a text-generation pipeline accepts."""
CHUNK = 32
"""Pairs of one pass: bounds the memory that a ranking request needs."""
MAX_TOKENS = 32_768
"""Longest text of a model that states no limit."""
MAX_NEW_TOKENS = 1024
"""Upper bound of one answer; for longer texts there are vLLM and llama.cpp."""


class TextClassifier:
    """Text classification: the most likely label, its score, and the scores of all labels."""

    platform = "transformers"
    inputs = TEXT
    batches = True

    def __init__(self, *, path: Path, device: str, dtype: str | None, remote_code: bool) -> None:
        """Load the model."""
        self._device = device
        self._tokenizer = load_tokenizer(path, remote_code=remote_code)
        kind = "AutoModelForSequenceClassification"
        model = load_weights(kind, path, device=device, dtype=dtype, remote_code=remote_code)
        model.config.pad_token_id = self._tokenizer.pad_token_id
        self._model = model
        bounds = (getattr(model.config, "max_position_embeddings", None), MAX_TOKENS)
        self._limit = min(int(b) for b in (*bounds, self._tokenizer.model_max_length) if b)
        self._labels = [str(label) for _, label in sorted(model.config.id2label.items())]
        self.outputs: tuple[Spec, ...] = (
            Spec(name="label", datatype="BYTES", shape=(-1,)),
            Spec(name="score", datatype="FP32", shape=(-1,)),
            Spec(name="scores", datatype="FP32", shape=(-1, len(self._labels))),
        )

    def infer(self, tensors: dict[str, Array], parameters: dict[str, Any]) -> dict[str, Array]:
        """Return softmax scores, or sigmoid scores if several labels can apply at once."""
        labels, scores, _ = self.classify(texts_of(tensors))
        return {
            "label": np.array([label.encode() for label in labels], dtype=np.object_),
            "score": scores.max(-1),
            "scores": scores,
        }

    def classify(self, texts: list[str]) -> tuple[list[str], Array, int]:
        """Return the most likely label and all scores of each text, and the number of tokens."""
        import torch

        logits, tokens = self._logits(texts, None)
        several = self._model.config.problem_type == "multi_label_classification"
        independent = several or logits.shape[-1] == 1
        with torch.inference_mode():
            scores = (logits.sigmoid() if independent else logits.softmax(-1)).cpu().numpy()
        return [self._labels[index] for index in scores.argmax(-1)], scores, tokens

    def _logits(self, texts: list[str], pairs: list[str] | None) -> tuple[Any, int]:
        import torch

        batch = self._tokenizer(
            texts, pairs, padding=True, truncation=True, max_length=self._limit, return_tensors="pt"
        ).to(self._device)
        with torch.inference_mode():
            logits = self._model(**batch).logits.float()
        return logits, int(batch["attention_mask"].sum())


class CrossEncoder(TextClassifier):
    """A classifier with one output, which scores how well a document answers a query."""

    def score(self, pairs: list[tuple[str, str]]) -> tuple[list[float], int]:
        """Return the score of each pair of query and document, and the number of tokens.

        Scores are probabilities unless the folder asks for the raw output, as
        sentence-transformers has it.
        """
        config = self._model.config
        stated = getattr(config, "sentence_transformers", None) or {}
        raw = str(stated.get("activation_fn", "")).endswith("Identity")
        scores: list[float] = []
        tokens = 0
        for at in range(0, len(pairs), CHUNK):
            queries, documents = zip(*pairs[at : at + CHUNK], strict=True)
            logits, count = self._logits(list(queries), list(documents))
            values = logits[:, 0] if raw else logits[:, 0].sigmoid()
            scores += values.cpu().tolist()
            tokens += count
        return scores, tokens


class TextPipeline:
    """A text pipeline of transformers, with one JSON result per text."""

    platform = "transformers"
    inputs = TEXT
    outputs: tuple[Spec, ...] = (Spec(name="result", datatype="BYTES", shape=(-1,)),)
    batches = False

    def __init__(
        self, *, path: Path, task: str, device: str, dtype: str | None, remote_code: bool
    ) -> None:
        """Build the pipeline for ``task``."""
        from transformers import pipeline

        model = load_weights(
            PIPELINES[task], path, device=device, dtype=dtype, remote_code=remote_code
        )
        tokenizer = load_tokenizer(path, remote_code=remote_code)
        self._task = task
        self._pipeline = pipeline(task, model=model, tokenizer=tokenizer, device=device)

    def infer(self, tensors: dict[str, Array], parameters: dict[str, Any]) -> dict[str, Array]:
        """Return the pipeline's ``result`` for each ``text``, as JSON."""
        chosen: dict[str, Any] = {}
        if self._task == "text-generation":
            chosen = {name: value for name, value in parameters.items() if name in GENERATION}
            wanted = chosen.setdefault("max_new_tokens", 64)
            if type(wanted) is not int or not 1 <= wanted <= MAX_NEW_TOKENS:
                raise BadRequest(f"max_new_tokens must be 1 to {MAX_NEW_TOKENS}")
        try:
            answers = [self._pipeline(text, **chosen) for text in texts_of(tensors)]
        except (ValueError, TypeError) as exc:
            raise BadRequest(str(exc)) from exc
        lines = [json.dumps(answer, default=_number).encode() for answer in answers]
        return {"result": np.array([*lines, None], dtype=np.object_)[:-1]}


def _number(value: Any) -> Any:
    """Convert NumPy's numbers, which `json` does not support."""
    return value.item() if hasattr(value, "item") else str(value)
