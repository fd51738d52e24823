"""Maps data-plane requests to models and rewrites them for engines (no I/O here)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from modelium.gateway.json_fields import read_fields, with_field
from modelium.gateway.multipart import form_fields, renamed_form
from modelium.gateway.problems import HttpProblem
from modelium.models import MODEL_NAME, Api, Upstream
from modelium.models.openai_paths import GENERATION, OPENAI_PATHS, TRANSCRIPTION

KSERVE_REST = re.compile(r"(/versions/[0-9]+)?(/(infer|generate|generate_stream|config|stats))?")

_NAME = re.compile(MODEL_NAME.removesuffix("$") + r"(:[0-9]{1,9})?$")
"""A model's name in a URL. Aliases of other forms work in JSON bodies only."""

_DOTS = frozenset({".", ".."})


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """A data-plane request by its path; the model is named in the URL or in the body."""

    api: Api
    model: str | None
    """``None``: the ``model`` field of the JSON body names it."""
    rest: str
    """The engine's path, encoded; for KServe the part after the model's name."""
    form: bool = False
    """Whether the body is a multipart form instead of JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outgoing:
    """The request as sent to the engine."""

    path: str
    body: bytes


_OPENAI = {
    path: Route(api="openai", model=None, rest=path, form=path in TRANSCRIPTION)
    for path in OPENAI_PATHS
}

_LIMITS = {
    path: ("max_output_tokens",) if path == "/v1/responses" else ("max_tokens",)
    for path in GENERATION
} | {"/v1/chat/completions": ("max_tokens", "max_completion_tokens")}
"""Path → the fields that bound an answer; the first one is set where a request has none."""


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
    if len(parts) < 3:  # the slash itself was encoded
        return None
    name = unquote(parts[2])
    rest = f"/{parts[3]}" if len(parts) > 3 else "/"
    if not _NAME.fullmatch(name) or not _DOTS.isdisjoint(unquote(rest).split("/")):
        return None
    if rest in OPENAI_PATHS and method == "POST":
        return Route(api="openai", model=name, rest=rest, form=rest in TRANSCRIPTION)
    return Route(api="generic", model=name, rest=rest)


def fields_of(route: Route, body: bytes) -> dict[str, object] | None:
    """Return the fields of a request of the OpenAI API; ``None`` for the other APIs.

    Blocks for up to a second where the body is longer than `SMALL_BYTES`.

    Raises:
        HttpProblem: 400, the body is neither JSON nor, where the route wants it, a form; 413.
    """
    if route.api != "openai":
        return None
    return form_fields(body) if route.form else read_fields(body)


def model_of(content: dict[str, object]) -> str:
    """Return the ``model`` field of a body.

    Raises:
        HttpProblem: 400, it is missing or not text.
    """
    named = content.get("model")
    if not isinstance(named, str) or not named:
        raise HttpProblem(400, "`model` in the request body must name a model", reason="bad-input")
    return named


def outgoing(
    route: Route,
    model: str,
    upstream: Upstream,
    body: bytes,
    content: dict[str, object] | None,
    *,
    max_tokens: int | None = None,
) -> Outgoing:
    """Return the request for ``upstream``, with the engine's own name of ``model``.

    Args:
        route: from `match`.
        model: the model's name at the gateway.
        upstream: the engine that serves it.
        body: as the client sent it; unchanged if it already has the engine's name.
        content: the fields of ``body``, for the OpenAI API.
        max_tokens: bound for an answer whose request sets none; ``None``: the engine's.

    Raises:
        HttpProblem: 400, the model does not serve the requested API or path.
    """
    paths = upstream.paths
    if route.api not in upstream.apis or (
        paths is not None and route.api == "openai" and route.rest not in paths
    ):
        raise _not_served(route, model, upstream)
    if route.api == "kserve":
        return Outgoing(path=f"/v2/models/{upstream.served_name}{route.rest}", body=body)
    if content is not None and content.get("model") != upstream.served_name:
        if route.form:
            body = renamed_form(body, upstream.served_name)
        else:
            name = upstream.served_name
            body = with_field(body, "model", name, present="model" in content)
    if max_tokens is not None and content is not None:
        body = _bounded(route, body, content, max_tokens)
    if upstream.peer and route.api == "generic":
        return Outgoing(path=f"/models/{upstream.served_name}{route.rest}", body=body)
    return Outgoing(path=route.rest, body=body)


def _not_served(route: Route, model: str, upstream: Upstream) -> HttpProblem:
    offered: list[str] = []
    if "openai" in upstream.apis:
        offered += sorted(OPENAI_PATHS if upstream.paths is None else upstream.paths)
    if "kserve" in upstream.apis:
        offered.append(f"/v2/models/{model}/infer")
    if "generic" in upstream.apis:
        offered.append(f"the engine's own routes below /models/{model}/")
    wanted = {"kserve": "the KServe v2 API", "generic": "routes of its engine's own"}
    return HttpProblem(
        400,
        f"{model} does not serve {wanted.get(route.api, route.rest)}; it offers "
        + (", ".join(offered) or "nothing"),
        reason="wrong-api",
    )


def _bounded(route: Route, body: bytes, content: dict[str, object], most: int) -> bytes:
    """Return ``body`` with a bound for the answer, unless it has one."""
    fields = _LIMITS.get(route.rest)
    if fields is None or any(content.get(field) is not None for field in fields):
        return body
    return with_field(body, fields[0], most, present=fields[0] in content)
