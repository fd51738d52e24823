"""The HTTP API of one model: KServe v2 and, for embedding models, OpenAI's embeddings."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from typing import Any, Protocol

import numpy as np

from runtimes.ray.replica.batcher import Batcher
from runtimes.ray.replica.embeddings import EmbeddingModel
from runtimes.ray.replica.tensors import (
    Array,
    BadRequest,
    Request,
    Spec,
    decode,
    encode,
    read_object,
)

Response = tuple[int, bytes, dict[str, str]]
"""Status, body, headers."""
Tensors = dict[str, Array]
Embedded = tuple[Array, list[int]]


class Model(Protocol):
    """What all kinds of models have in common."""

    platform: str
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]

    @property
    def batches(self) -> bool:
        """Whether requests can be batched along the first dimension."""

    def infer(self, tensors: Tensors, parameters: dict[str, Any]) -> Tensors:
        """Return all outputs by name."""


class HttpApi:
    """Routes requests to a model, in batches if the model supports them."""

    def __init__(
        self, *, model: Model, name: str, version: str, max_batch: int, batch_wait_s: float
    ) -> None:
        """Batch up to ``max_batch`` requests, which wait up to ``batch_wait_s`` for each other."""
        self._model = model
        self._name = name
        self._version = version
        self._infers: Batcher[Tensors, Tensors | Exception] | None = None
        self._embeds: Batcher[list[str], Embedded] | None = None
        if max_batch > 1 and model.batches:
            self._infers = Batcher(run=self._infer_many, size=max_batch, wait_s=batch_wait_s)
            if isinstance(model, EmbeddingModel):
                self._embeds = Batcher(run=self._embed_many, size=max_batch, wait_s=batch_wait_s)

    async def handle(self, method: str, path: str, headers: Any, body: bytes) -> Response:
        """Route a request and return its response."""
        openai = path.startswith("/v1/")
        try:
            if headers.get("content-encoding", "identity") != "identity":
                return _error(415, "compressed requests are not supported", openai=openai)
            if openai:
                return await self._openai(method, path, body)
            return await self._kserve(method, path, headers, body)
        except BadRequest as exc:
            return _error(400, str(exc), openai=openai)
        except MemoryError as exc:
            return _error(507, f"not enough memory for this request: {exc}", openai=openai)
        except Exception as exc:
            print(f"{type(exc).__name__}: {exc}", file=sys.stderr)
            return _error(500, f"{type(exc).__name__}: {exc}", openai=openai)

    async def _kserve(self, method: str, path: str, headers: Any, body: bytes) -> Response:
        parts = [part for part in path.split("/") if part]
        if method == "GET" and parts == ["v2"]:
            extensions = ["binary_tensor_data"]
            return _json({"name": "modelium", "version": "2", "extensions": extensions})
        if method == "GET" and parts in (["v2", "health", "live"], ["v2", "health", "ready"]):
            return _json({parts[2]: True})
        if parts[:2] != ["v2", "models"] or len(parts) < 3:
            return _error(404, f"no such route: {method} {path}")
        if parts[2] != self._name:
            return _error(404, f"unknown model {parts[2]!r}: this is {self._name!r}")
        rest = parts[3:]
        if rest[:1] == ["versions"] and len(rest) >= 2:
            if rest[1] != self._version:
                return _error(404, f"unknown version {rest[1]!r}: this is {self._version!r}")
            rest = rest[2:]
        if method == "GET" and rest in ([], ["ready"]):
            return _json({"name": self._name, "ready": True} if rest else self._metadata())
        if method == "POST" and rest == ["infer"]:
            return await self._infer_route(headers, body)
        return _error(404 if rest else 405, f"no such route: {method} {path}")

    def _metadata(self) -> dict[str, Any]:
        return {
            "name": self._name,
            "versions": [self._version],
            "platform": self._model.platform,
            "inputs": [spec.describe() for spec in self._model.inputs],
            "outputs": [spec.describe() for spec in self._model.outputs],
        }

    async def _infer_route(self, headers: Any, body: bytes) -> Response:
        length = headers.get("inference-header-content-length")
        if length is not None and not length.isdigit():
            raise BadRequest("Inference-Header-Content-Length must be a number")
        request = decode(
            body, None if length is None else int(length), self._model.inputs, self._model.outputs
        )
        answers = await self._infer(request)
        content, head = encode(request, answers, model=self._name, version=self._version)
        if head is None:
            return 200, content, {"content-type": "application/json"}
        kind = {"content-type": "application/octet-stream"}
        return 200, content, kind | {"inference-header-content-length": str(head)}

    async def _infer(self, request: Request) -> Tensors:
        joinable = all(array.ndim and len(array) for array in request.tensors.values())
        options = {name for name in request.parameters if name != "binary_data_output"}
        if self._infers is None or options or not joinable:
            return await asyncio.to_thread(self._model.infer, request.tensors, request.parameters)
        answer = await self._infers.put(request.tensors)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _infer_many(self, requests: list[Tensors]) -> list[Tensors | Exception]:
        return await asyncio.to_thread(infer_many, self._model, requests)

    async def _embed_many(self, requests: list[list[str]]) -> list[Embedded]:
        assert isinstance(self._model, EmbeddingModel)  # noqa: S101
        joined = [text for texts in requests for text in texts]
        vectors, counts = await asyncio.to_thread(self._model.embed, joined)
        ends = np.cumsum([len(texts) for texts in requests])
        return [
            (vectors[end - len(texts) : end], counts[end - len(texts) : end])
            for end, texts in zip(ends, requests, strict=True)
        ]

    async def _openai(self, method: str, path: str, body: bytes) -> Response:
        if path != "/v1/embeddings" or not isinstance(self._model, EmbeddingModel):
            return _error(404, f"no such route: {method} {path}", openai=True)
        if method != "POST":
            return _error(405, f"no such route: {method} {path}", openai=True)
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
        usage = {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
        return _json({"object": "list", "data": data, "model": self._name, "usage": usage})


def infer_many(model: Model, requests: list[Tensors]) -> list[Tensors | Exception]:
    """Run requests in as few calls as their shapes allow; one that fails affects no other."""
    groups: dict[Any, list[int]] = {}
    for index, tensors in enumerate(requests):
        rows = {len(array) for array in tensors.values()}
        shapes = tuple(sorted((name, array.shape[1:]) for name, array in tensors.items()))
        # Inputs of different lengths have no common batch dimension: the request runs alone.
        groups.setdefault(shapes if len(rows) == 1 else index, []).append(index)
    answers: dict[int, Tensors | Exception] = {}
    for members in groups.values():
        joined = {
            name: np.concatenate([requests[index][name] for index in members])
            for name in requests[members[0]]
        }
        counts = [len(next(iter(requests[index].values()))) for index in members]
        try:
            together = model.infer(joined, {})
            if len(members) == 1:
                answers[members[0]] = together
                continue
            if any(len(array) != sum(counts) for array in together.values()):
                raise BadRequest("the outputs do not follow the batch")
            ends = np.cumsum(counts)[:-1]
            parts = {name: np.split(array, ends) for name, array in together.items()}
            for place, index in enumerate(members):
                answers[index] = {name: split[place] for name, split in parts.items()}
        except Exception as exc:
            if len(members) == 1:
                answers[members[0]] = exc
                continue
            for index in members:
                answers[index] = infer_many(model, [requests[index]])[0]
    return [answers[index] for index in range(len(requests))]


def embedding_request(body: bytes, *, model: str) -> tuple[list[Any], bool]:
    """Return the texts (or token ids) of an OpenAI embedding request, and whether it wants base64.

    Raises:
        BadRequest: it is malformed, or asks for something unsupported.
    """
    document = read_object(body)
    if document.get("model", model) != model:
        raise BadRequest(f"unknown model {document['model']!r}: this is {model!r}")
    encoding = document.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise BadRequest("encoding_format must be float or base64")
    if document.get("dimensions") is not None:
        raise BadRequest("`dimensions` is not supported: remove it to get the model's own width")
    given = document.get("input")
    if isinstance(given, str) or (isinstance(given, list) and given and type(given[0]) is int):
        given = [given]
    if not isinstance(given, list) or not given:
        raise BadRequest("`input` must be a text, a list of texts, or token ids")
    texts = all(isinstance(item, str) for item in given)
    ids = all(
        isinstance(item, list) and item and all(type(token) is int for token in item)
        for item in given
    )
    if not texts and not ids:
        raise BadRequest("`input` must be a text, a list of texts, or token ids")
    return given, encoding == "base64"


def _json(document: dict[str, Any], status: int = 200) -> Response:
    return status, json.dumps(document).encode(), {"content-type": "application/json"}


def _error(status: int, message: str, *, openai: bool = False) -> Response:
    if not openai:
        return _json({"error": message}, status)
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": None}
    return _json({"error": error}, status)
