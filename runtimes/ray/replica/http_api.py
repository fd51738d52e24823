"""The HTTP API of one model: KServe v2 and, by its kind, paths of OpenAI's API."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Protocol

import numpy as np

from runtimes.ray.replica.batcher import Batcher
from runtimes.ray.replica.openai_api import OpenaiApi
from runtimes.ray.replica.responses import Response, error_response, json_response
from runtimes.ray.replica.tensors import Array, BadRequest, Request, Spec, decode, encode

Tensors = dict[str, Array]


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
        self._openai = OpenaiApi(
            model=model, name=name, max_batch=max_batch, batch_wait_s=batch_wait_s
        )
        if max_batch > 1 and model.batches:
            self._infers = Batcher(run=self._infer_many, size=max_batch, wait_s=batch_wait_s)

    async def handle(self, method: str, path: str, headers: Any, body: bytes) -> Response:
        """Route a request and return its response."""
        openai = self._openai.answers(path)
        try:
            if headers.get("content-encoding", "identity") != "identity":
                return error_response(415, "compressed requests are not supported", openai=openai)
            if openai:
                return await self._openai.handle(method, path, body)
            return await self._kserve(method, path, headers, body)
        except BadRequest as exc:
            return error_response(400, str(exc), openai=openai)
        except MemoryError as exc:
            why = str(exc) or type(exc).__name__
            return error_response(507, f"not enough memory for this request: {why}", openai=openai)
        except Exception as exc:
            print(f"{type(exc).__name__}: {exc}", file=sys.stderr)
            return error_response(500, f"{type(exc).__name__}: {exc}", openai=openai)

    async def _kserve(self, method: str, path: str, headers: Any, body: bytes) -> Response:
        parts = [part for part in path.split("/") if part]
        if method == "GET" and parts == ["v2"]:
            extensions = ["binary_tensor_data"]
            return json_response({"name": "modelium", "version": "2", "extensions": extensions})
        if method == "GET" and parts in (["v2", "health", "live"], ["v2", "health", "ready"]):
            return json_response({parts[2]: True})
        if parts[:2] != ["v2", "models"] or len(parts) < 3:
            return error_response(404, f"no such route: {method} {path}")
        if parts[2] != self._name:
            return error_response(404, f"unknown model {parts[2]!r}: this is {self._name!r}")
        rest = parts[3:]
        if rest[:1] == ["versions"] and len(rest) >= 2:
            if rest[1] != self._version:
                return error_response(
                    404, f"unknown version {rest[1]!r}: this is {self._version!r}"
                )
            rest = rest[2:]
        if method == "GET" and rest in ([], ["ready"]):
            document = {"name": self._name, "ready": True} if rest else self._metadata()
            return json_response(document)
        if method == "POST" and rest == ["infer"]:
            return await self._infer_route(headers, body)
        return error_response(404 if rest else 405, f"no such route: {method} {path}")

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
