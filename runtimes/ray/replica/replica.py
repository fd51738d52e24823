"""The deployment class that Ray Serve runs: it loads one model within its memory limit."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

from runtimes.ray.replica.access import authorized, replica_key
from runtimes.ray.replica.embeddings import EmbeddingModel
from runtimes.ray.replica.http_api import HttpApi, Model
from runtimes.ray.replica.onnx import OnnxModel
from runtimes.ray.replica.responses import error_response
from runtimes.ray.replica.text_models import CrossEncoder, TextClassifier, TextPipeline
from runtimes.ray.replica.text_to_image import TextToImageModel

SLACK_BYTES = 256 * 1024**2
"""Added to the limit, which counts address space: stacks and allocators reserve some of it without
using it."""


def limit_memory(limit: int) -> None:
    """Let the process allocate ``limit`` bytes more than it holds now, plus `SLACK_BYTES`.

    RLIMIT_DATA counts private writable memory, so weights that are mapped from files are free.
    """
    status = Path("/proc/self/status").read_text()
    now = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData"))
    bound = now * 1024 + limit + SLACK_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (bound, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def load_model(spec: dict[str, Any]) -> Model:
    """Load the model that ``spec`` describes (see `runtimes.ray.application`)."""
    path, kind, gpu = Path(spec["path"]), spec["kind"], spec["gpu"]
    if kind == "onnx":
        import onnxruntime  # noqa: F401  (before the limit: libraries are not the model's memory)

        if not gpu:
            limit_memory(spec["memory_bytes"])
        return OnnxModel(
            path=path / spec["file"],
            gpu=gpu,
            memory_bytes=spec["memory_bytes"],
            threads=spec["threads"],
        )
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(spec["threads"])
    if gpu:
        torch.cuda.set_per_process_memory_fraction(spec["gpu_fraction"], 0)
    else:
        limit_memory(spec["memory_bytes"])
    common = {
        "path": path,
        "device": "cuda:0" if gpu else "cpu",
        "dtype": spec["dtype"],
        "remote_code": spec["remote_code"],
    }
    if kind == "embedding":
        return EmbeddingModel(**common)
    if kind == "ranking":
        return CrossEncoder(**common)
    if kind == "classification":
        return TextClassifier(**common)
    if kind == "image":
        return TextToImageModel(**common)
    return TextPipeline(task=spec["task"], **common)


class Replica:
    """One replica of one application."""

    def __init__(self, spec: dict[str, Any]) -> None:
        """Load the model; an exception here fails the load."""
        self._key = (
            replica_key(Path(spec["token_path"]), spec["model"]) if spec["token_path"] else None
        )
        self._api = HttpApi(
            model=load_model(spec),
            name=spec["model"],
            version=str(spec["version"]),
            max_batch=spec["max_batch"],
            batch_wait_s=spec["batch_wait_s"],
        )

    async def __call__(self, request: Any) -> Any:
        """Answer one HTTP request (of Starlette) below the application's route."""
        from starlette.responses import Response

        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        if self._key and not authorized(request.headers.get("authorization"), self._key):
            status, content, headers = error_response(
                401, "a key is needed: ask the gateway", openai=path.startswith("/v1/")
            )
            return Response(content, status_code=status, headers=headers)
        body = await request.body()
        status, content, headers = await self._api.handle(
            request.method, path, request.headers, body
        )
        return Response(content, status_code=status, headers=headers)
