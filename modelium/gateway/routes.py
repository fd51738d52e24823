"""Maps data-plane requests to models and rewrites them for engines (no I/O here)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import islice
from urllib.parse import unquote

from modelium.gateway.problems import HttpProblem
from modelium.models import MODEL_NAME, Api, Upstream

OPENAI_PATHS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
        "/v1/rerank",
        "/v1/score",
        "/tokenize",
        "/detokenize",
    }
)
"""An allow-list: engines also have management routes, which must not be reachable."""

KSERVE_REST = re.compile(r"(/versions/[0-9]+)?(/(infer|generate|generate_stream|config|stats))?")

_NAME = re.compile(MODEL_NAME.removesuffix("$") + r"(:[0-9]{1,9})?$")
"""A model's name in a URL. Aliases of other forms work in JSON bodies only."""

_MODEL = re.compile(rb'"model"\s*:\s*("(?:[^"\\\x00-\x1f]|\\["\\/bfnrtu])*")')
"""A ``model`` field of any object in the body."""

_DOTS = frozenset({".", ".."})


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """A data-plane request by its path; the model is named in the URL or in the body."""

    api: Api
    model: str | None
    """``None``: the ``model`` field of the JSON body names it."""
    rest: str
    """The engine's path, encoded; for KServe the part after the model's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outgoing:
    """The request as sent to the engine."""

    path: str
    body: bytes


_OPENAI = {path: Route(api="openai", model=None, rest=path) for path in OPENAI_PATHS}


def match(method: str, path: str, raw_path: bytes) -> Route | None:
    """Return the data-plane route of a request; ``None``: it belongs to another API.

    Args:
        method: HTTP method.
        path: decoded path.
        raw_path: the path as received; the generic pass-through keeps its encoding.
    """
    if path in OPENAI_PATHS:
        return _OPENAI[path] if method == "POST" else None
    if path.startswith("/v2/models/") and method in ("GET", "POST"):
        name, slash, rest = path[len("/v2/models/") :].partition("/")
        if _NAME.fullmatch(name) and KSERVE_REST.fullmatch(slash + rest):
            return Route(api="kserve", model=name, rest=slash + rest)
    elif path.startswith("/models/"):
        return _generic(method, raw_path)
    return None


def _generic(method: str, raw_path: bytes) -> Route | None:
    parts = raw_path.decode("latin-1").split("/", 3)
    name = unquote(parts[2])
    rest = f"/{parts[3]}" if len(parts) > 3 else "/"
    if not _NAME.fullmatch(name) or not _DOTS.isdisjoint(unquote(rest).split("/")):
        return None
    if rest in OPENAI_PATHS and method == "POST":
        return Route(api="openai", model=name, rest=rest)
    return Route(api="generic", model=name, rest=rest)


def parsed(body: bytes) -> dict[str, object]:
    """Return the JSON object in ``body``.

    Raises:
        HttpProblem: 400, it is not a JSON object.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise HttpProblem(
            400, f"the request body is not valid JSON: {exc}", reason="bad-json"
        ) from exc
    if not isinstance(content, dict):
        raise HttpProblem(400, "the request body must be a JSON object", reason="bad-json")
    return content


def model_of(content: dict[str, object]) -> str:
    """Return the ``model`` field of a JSON body.

    Raises:
        HttpProblem: 400, it is missing or not text.
    """
    named = content.get("model")
    if not isinstance(named, str) or not named:
        raise HttpProblem(400, "`model` in the request body must name a model", reason="bad-input")
    return named


def outgoing(
    route: Route, model: str, upstream: Upstream, body: bytes, content: dict[str, object] | None
) -> Outgoing:
    """Return the request for ``upstream``, with the engine's own name of ``model``.

    Args:
        route: from `match`.
        model: the model's name at the gateway.
        upstream: the engine that serves it.
        body: as the client sent it; unchanged if it already has the engine's name.
        content: ``body`` parsed, for the OpenAI API.

    Raises:
        HttpProblem: 400, the engine does not serve the requested API.
    """
    if route.api not in upstream.apis:
        supported = ", ".join(sorted(upstream.apis))
        raise HttpProblem(
            400,
            f"{model} does not support the {route.api} API; supported: {supported}",
            reason="wrong-api",
        )
    if route.api == "kserve":
        return Outgoing(path=f"/v2/models/{upstream.served_name}{route.rest}", body=body)
    if content is not None and content.get("model") != upstream.served_name:
        body = _renamed(body, content, upstream.served_name)
    return Outgoing(path=route.rest, body=body)


def _renamed(body: bytes, content: dict[str, object], name: str) -> bytes:
    """Return ``body`` with another ``model``; if the field is unambiguous, by replacing its bytes.

    Serializing the whole body would be slow for images and would lose numbers that Python cannot
    represent.
    """
    found = list(islice(_MODEL.finditer(body), 2))
    if len(found) == 1 and json.loads(found[0][1]) == content.get("model"):
        start, end = found[0].span(1)
        return body[:start] + json.dumps(name).encode() + body[end:]
    return json.dumps({**content, "model": name}, separators=(",", ":")).encode()
