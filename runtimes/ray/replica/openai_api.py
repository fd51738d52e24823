"""Paths of OpenAI's API and its relatives, for the kinds of models that have one.

Embeddings and images are OpenAI's own, ranking, scores and classes have the shape of vLLM's.
"""

from __future__ import annotations

import asyncio
import base64
import io
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from runtimes.ray.replica.batcher import Batcher
from runtimes.ray.replica.embeddings import EmbeddingModel
from runtimes.ray.replica.openai_requests import (
    classify_request,
    embedding_request,
    image_request,
    rerank_request,
    score_request,
)
from runtimes.ray.replica.responses import Response, error_response, json_response
from runtimes.ray.replica.tensors import Array
from runtimes.ray.replica.text_models import CrossEncoder, TextClassifier
from runtimes.ray.replica.text_to_image import TextToImageModel

Embedded = tuple[Array, list[int]]


class OpenaiApi:
    """Answers the paths that a model of its kind has."""

    def __init__(self, *, model: Any, name: str, max_batch: int, batch_wait_s: float) -> None:
        """Batch up to ``max_batch`` embedding requests, as `HttpApi` does."""
        self._model = model
        self._name = name
        self._embeds: Batcher[list[str], Embedded] | None = None
        if max_batch > 1 and isinstance(model, EmbeddingModel):
            self._embeds = Batcher(run=self._embed_many, size=max_batch, wait_s=batch_wait_s)
        paths: dict[str, Callable[[bytes], Awaitable[dict[str, Any]]]] = {}
        if isinstance(model, EmbeddingModel):
            paths = {"/v1/embeddings": self._embeddings}
        elif isinstance(model, CrossEncoder):
            paths = dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), self._rerank)
            paths |= dict.fromkeys(("/score", "/v1/score"), self._score)
        elif isinstance(model, TextClassifier):
            paths = {"/classify": self._classify}
        elif isinstance(model, TextToImageModel):
            paths = {"/v1/images/generations": self._images}
        self._paths = paths

    def answers(self, path: str) -> bool:
        """Whether ``path`` is one of this API, known or not."""
        return path.startswith("/v1/") or path in self._paths

    async def handle(self, method: str, path: str, body: bytes) -> Response:
        """Route a request and return its response.

        Raises:
            BadRequest: it is malformed, or asks for something unsupported.
        """
        answer = self._paths.get(path)
        if answer is None or method != "POST":
            status = 404 if answer is None else 405
            return error_response(status, f"no such route: {method} {path}", openai=True)
        return json_response(await answer(body))

    async def _embeddings(self, body: bytes) -> dict[str, Any]:
        texts, base64_wanted = embedding_request(body, model=self._name)
        if self._embeds is not None and isinstance(texts[0], str):
            vectors, counts = await self._embeds.put(texts)
        else:
            vectors, counts = await asyncio.to_thread(self._model.embed, texts)
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode()
                if base64_wanted
                else vector.tolist(),
            }
            for index, vector in enumerate(vectors)
        ]
        return {"object": "list", "data": data, "model": self._name, "usage": _usage(sum(counts))}

    async def _embed_many(self, requests: list[list[str]]) -> list[Embedded]:
        joined = [text for texts in requests for text in texts]
        vectors, counts = await asyncio.to_thread(self._model.embed, joined)
        ends = np.cumsum([len(texts) for texts in requests])
        return [
            (vectors[end - len(texts) : end], counts[end - len(texts) : end])
            for end, texts in zip(ends, requests, strict=True)
        ]

    async def _rerank(self, body: bytes) -> dict[str, Any]:
        query, documents, top = rerank_request(body, model=self._name)
        pairs = [(query, document) for document in documents]
        scores, tokens = await asyncio.to_thread(self._model.score, pairs)
        results = [
            {"index": index, "document": {"text": text}, "relevance_score": score}
            for index, (text, score) in enumerate(zip(documents, scores, strict=True))
        ]
        results.sort(key=lambda result: -float(result["relevance_score"]))
        return {
            "id": f"rerank-{uuid.uuid4().hex}",
            "model": self._name,
            "usage": {"total_tokens": tokens},
            "results": results[:top],
        }

    async def _score(self, body: bytes) -> dict[str, Any]:
        pairs = score_request(body, model=self._name)
        scores, tokens = await asyncio.to_thread(self._model.score, pairs)
        data = [
            {"index": index, "object": "score", "score": score}
            for index, score in enumerate(scores)
        ]
        return self._listed("score", data, tokens)

    async def _classify(self, body: bytes) -> dict[str, Any]:
        texts = classify_request(body, model=self._name)
        labels, scores, tokens = await asyncio.to_thread(self._model.classify, texts)
        data = [
            {"index": index, "label": label, "probs": row.tolist(), "num_classes": len(row)}
            for index, (label, row) in enumerate(zip(labels, scores, strict=True))
        ]
        return self._listed("classify", data, tokens)

    async def _images(self, body: bytes) -> dict[str, Any]:
        texts, parameters = image_request(body, model=self._name)
        pixels = await asyncio.to_thread(self._model.paint, texts, parameters)
        data = [{"b64_json": base64.b64encode(_png(image)).decode()} for image in pixels]
        return {"created": int(time.time()), "data": data}

    def _listed(self, kind: str, data: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
        return {
            "id": f"{kind}-{uuid.uuid4().hex}",
            "object": "list",
            "created": int(time.time()),
            "model": self._name,
            "data": data,
            "usage": _usage(tokens),
        }


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": tokens, "total_tokens": tokens}


def _png(pixels: Array) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()
