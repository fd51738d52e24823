from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelium.models import Task
from runtimes.engines.probe import openai_probe
from tests.runtimes.requests import profile, request

COMPLETION = ("/v1/completions", {"model": "m", "prompt": "1", "max_tokens": 1})


@pytest.mark.parametrize(
    ("task", "probe"),
    [
        (Task.TEXT_GENERATION, COMPLETION),
        (Task.IMAGE_TEXT_TO_TEXT, COMPLETION),
        (Task.TEXT2TEXT, COMPLETION),
        (Task.EMBEDDING, ("/v1/embeddings", {"model": "m", "input": "1"})),
        (Task.TEXT_CLASSIFICATION, None),
    ],
)
def test_the_first_request_is_the_smallest_one_of_the_task(
    task: Task, probe: tuple[str, dict[str, Any]] | None
) -> None:
    assert openai_probe(request(Path("/m"), model="m@2", profile=profile(task=task))) == probe
