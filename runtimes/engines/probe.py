"""The smallest real request of an OpenAI-compatible engine (no I/O here).

An engine can be healthy and die of its first request: where its kernels lack a case, or where
memory for the first batch is missing.
"""

from __future__ import annotations

from typing import Any

from modelium.models import Task
from modelium.ports import LoadRequest

GENERATIVE = frozenset({Task.TEXT_GENERATION, Task.IMAGE_TEXT_TO_TEXT, Task.TEXT2TEXT})


def openai_probe(request: LoadRequest) -> tuple[str, dict[str, Any]] | None:
    """Path and JSON body; None for tasks that have no request of one word."""
    if request.profile.task in GENERATIVE:
        return "/v1/completions", {"model": request.model, "prompt": "1", "max_tokens": 1}
    if request.profile.task == Task.EMBEDDING:
        return "/v1/embeddings", {"model": request.model, "input": "1"}
    return None
