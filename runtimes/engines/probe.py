"""The smallest real request to an OpenAI-compatible engine (no I/O here).

A healthy engine can still fail its first request: a kernel may not cover the case, or the memory
for the first batch may be missing.
"""

from __future__ import annotations

from typing import Any

from modelium.models import Task
from modelium.models.base import base_name
from modelium.ports import LoadRequest

GENERATIVE = frozenset({Task.TEXT_GENERATION, Task.IMAGE_TEXT_TO_TEXT, Task.TEXT2TEXT})


def openai_probe(request: LoadRequest) -> tuple[str, dict[str, Any]] | None:
    """Return path and JSON body; None for tasks that cannot be probed with one word."""
    model = base_name(request.model)
    if request.profile.task in GENERATIVE:
        return "/v1/completions", {"model": model, "prompt": "1", "max_tokens": 1}
    if request.profile.task == Task.EMBEDDING:
        return "/v1/embeddings", {"model": model, "input": "1"}
    return None
