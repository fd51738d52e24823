"""Whether the brain's LLM answers: one short question, as the service sends them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx

from modelium.cli.findings import Finding
from modelium.cli.visible import visible
from modelium.config import Config

WHAT = "LLM"

SHOWN_CHARACTERS = 200
"""Of what the endpoint says where it refuses."""

HINTS = {
    401: "set its API key in {key}",
    403: "set its API key in {key}",
    404: "check brain.base_url, which usually ends in /v1, and brain.model",
}


def llm(config: Config) -> Iterator[Finding]:
    """Ask the configured LLM for a few tokens; nothing where none is set or Modelium serves it."""
    brain = config.brain
    if brain.base_url is None or config.brain_served_here:
        return
    if brain.model is None:
        detail = "brain.model is not set, so the rules decide alone; name a model of that API"
        yield Finding(what=WHAT, ok=False, detail=detail)
        return
    key = os.environ.get(brain.api_key_env) or ""
    where = urlsplit(brain.base_url).netloc.rpartition("@")[2]
    question = {
        "model": brain.model,
        "messages": [{"role": "user", "content": "Answer that you are ready."}],
        "max_completion_tokens": 16,
    }
    try:
        answer = httpx.post(
            f"{brain.base_url.rstrip('/')}/chat/completions",
            json=question,
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=brain.time_budget_seconds,
        )
    except httpx.TimeoutException:
        within = f"brain.time_budget_seconds ({brain.time_budget_seconds:g} s)"
        detail = f"{where} did not answer within {within}, so the rules would decide"
        yield Finding(what=WHAT, ok=False, detail=detail)
        return
    except httpx.HTTPError as exc:
        detail = f"no answer at {where}: {exc or type(exc).__name__}"
        yield Finding(what=WHAT, ok=False, detail=detail)
        return
    if answer.status_code != httpx.codes.OK:
        said = _shown(answer.text.replace(key, "***") if key else answer.text)
        detail = f"{where} refuses a question with status {answer.status_code}: {said}"
        if hint := HINTS.get(answer.status_code):
            detail += f"; {hint.format(key=brain.api_key_env)}"
        yield Finding(what=WHAT, ok=False, detail=detail)
    elif not _is_completion(answer):
        detail = f"the server at {where} has no chat completions; check brain.base_url"
        yield Finding(what=WHAT, ok=False, detail=detail)
    else:
        yield Finding(what=WHAT, ok=True, detail=f"{brain.model} answers at {where}")


def _is_completion(answer: httpx.Response) -> bool:
    try:
        found = answer.json()
    except ValueError:
        return False
    return isinstance(found, dict) and bool(found.get("choices"))


def _shown(text: str) -> str:
    """Return ``text`` as one line of plain characters: it is a stranger's."""
    return visible(" ".join(text.split()))[:SHOWN_CHARACTERS]
