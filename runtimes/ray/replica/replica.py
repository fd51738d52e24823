"""The deployment that Ray Serve runs: loads one model within its bounds."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

from runtimes.ray.replica.face import Face, Model
from runtimes.ray.replica.images import Painter
from runtimes.ray.replica.onnx import OnnxModel
from runtimes.ray.replica.texts import Classifier, Embedder, Pipeline

SLACK_BYTES = 256 * 1024**2
"""Added to the memory bound: it counts address space, of which stacks and allocators keep some
that they never touch."""


def bound_memory(limit: int) -> None:
    """Let the process take ``limit`` bytes more than now, and not a byte beyond.

    RLIMIT_DATA: private writable memory, so weights mapped from files do not count twice.
    """
    status = Path("/proc/self/status").read_text()
    now = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData"))
    bound = now * 1024 + limit + SLACK_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (bound, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def load_model(spec: dict[str, Any]) -> Model:
    """The model that ``spec`` (see `runtimes.ray.application`) asks for."""
    path, kind, gpu = Path(spec["path"]), spec["kind"], spec["gpu"]
    if kind == "onnx":
        import onnxruntime  # noqa: F401  (before the bound: libraries are not the model's memory)

        if not gpu:
            bound_memory(spec["memory_bytes"])
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
        bound_memory(spec["memory_bytes"])
    common = {
        "path": path,
        "device": "cuda:0" if gpu else "cpu",
        "dtype": spec["dtype"],
        "remote_code": spec["remote_code"],
    }
    if kind == "embedding":
        return Embedder(**common)
    if kind == "classification":
        return Classifier(**common)
    if kind == "image":
        return Painter(**common)
    return Pipeline(task=spec["task"], **common)


class Replica:
    """What Ray Serve calls."""

    def __init__(self, spec: dict[str, Any]) -> None:
        """Load the model; an exception here fails the load."""
        self._face = Face(
            model=load_model(spec),
            name=spec["model"],
            version=str(spec["version"]),
            max_batch=spec["max_batch"],
            batch_wait_s=spec["batch_wait_s"],
        )

    async def __call__(self, request: Any) -> Any:
        """Answer one HTTP request (a Starlette request) under the application's route."""
        from starlette.responses import Response

        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        body = await request.body()
        status, content, headers = await self._face.answer(
            request.method, path, request.headers, body
        )
        return Response(content, status_code=status, headers=headers)
