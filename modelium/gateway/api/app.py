"""The application for all but inference: admin API, webhook, model list, health, status page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from modelium import __version__
from modelium.control.operations import Operations
from modelium.errors import InputError, ModeliumError
from modelium.gateway.access.keyring import Keyring, key_holder
from modelium.gateway.access.strangers import Strangers
from modelium.gateway.api import admin, peer_files, status_page, webhook
from modelium.gateway.api.signatures import Signatures
from modelium.gateway.api.views import openai_model
from modelium.gateway.asgi import Message, Receive
from modelium.gateway.problems import body_of, headers_of, status_of
from modelium.gateway.proxy.names import Names
from modelium.metrics import CONTENT_TYPE, Metrics
from modelium.models import Model
from modelium.ports import Clock
from modelium.routing.switchboard import Switchboard, unknown

MAX_BODY_BYTES = 1024 * 1024
"""Outside of inference, bodies have a few fields."""


class Told(BaseModel):
    """Why a request failed, for machines and for people."""

    reason: str
    message: str


class Error(BaseModel):
    """The body of every answer that is no success."""

    error: Told


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Error, "description": "The request cannot be met as it is."},
    "5XX": {"model": Error, "description": "The service cannot meet it; see Retry-After."},
}
"""Of all routes in the schema."""


def limit_body(receive: Receive) -> Receive:
    """Return ``receive``, with a 413 for bodies over `MAX_BODY_BYTES`."""
    left = MAX_BODY_BYTES

    async def limited() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(413)
        return message

    return limited


def create_app(
    *,
    operations: Operations,
    keys: Keyring,
    strangers: Strangers,
    names: Names,
    switchboard: Switchboard,
    metrics: Metrics,
    clock: Clock,
    incoming: Path,
    signatures: Signatures | None,
    links: Mapping[str, str],
    is_ready: Callable[[], bool] = lambda: True,
) -> FastAPI:
    """Return the application; its OpenAPI schema is at ``/api/v1/openapi.json``.

    ``signatures``: of the webhook's requests; ``None``: they need none. ``strangers``: hear of
    those with a wrong one.
    """
    # FastAPI's own documentation pages load scripts from other hosts.
    app = FastAPI(
        title="Modelium",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
        # They would lead to wherever the Host header says.
        redirect_slashes=False,
    )
    app.include_router(
        admin.router(operations=operations, keys=keys, clock=clock), responses=ERRORS
    )
    app.include_router(
        webhook.router(
            operations=operations, incoming=incoming, signatures=signatures, strangers=strangers
        ),
        responses=ERRORS,
    )
    app.include_router(peer_files.router(files=operations.files), include_in_schema=False)
    app.include_router(_metadata(operations, names, switchboard, is_ready), include_in_schema=False)
    app.include_router(_monitoring(operations, metrics, links), include_in_schema=False)
    app.add_exception_handler(ModeliumError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_exception)
    return app


def _metadata(
    operations: Operations, names: Names, switchboard: Switchboard, is_ready: Callable[[], bool]
) -> APIRouter:
    """Return the routes of the inference APIs that describe models and the server."""
    api = APIRouter()

    @api.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        fleet = await operations.fleet()
        shown = [openai_model(m) for m in fleet.models if _is_served(m, request)]
        for alias, named in names.aliases.items():
            known = fleet.models_by_name.get(named.model)
            if known is not None and _may_use(request, known.name):
                shown.append(openai_model(known, alias=alias))
        return {"object": "list", "data": shown}

    @api.get("/v1/models/{model:path}")
    async def model(model: str, request: Request) -> dict[str, Any]:
        known = (await operations.fleet()).models_by_name.get(names.resolve(model).model)
        if known is None or not _is_served(known, request):
            raise unknown(model)
        return openai_model(known, alias=model if model in names.aliases else None)

    @api.get("/v2")
    async def server() -> dict[str, Any]:
        # Extensions that the engines support, which pass through.
        return {"name": "modelium", "version": __version__, "extensions": ["binary_tensor_data"]}

    @api.get("/healthz")
    @api.get("/v2/health/live")
    async def live() -> Response:
        return Response()

    @api.get("/v2/health/ready")
    async def serving() -> Response:
        if is_ready():
            return Response()
        return JSONResponse(
            {"error": "Modelium is starting: requests are held until their models are found"},
            status_code=503,
        )

    @api.get("/v2/models/{model}/ready")
    @api.get("/v2/models/{model}/versions/{version}/ready")
    async def ready(model: str, request: Request) -> Response:
        # Not an inference request: it must not load the model.
        name = names.resolve(model).model
        if switchboard.upstream(name) is not None and _may_use(request, name):
            return Response()
        return JSONResponse({"error": f"{model} is not loaded"}, status_code=400)

    return api


def _is_served(model: Model, request: Request) -> bool:
    """Whether a client may know ``model``: twins and models that are being removed are not its."""
    return model.twin_of is None and model.removal is None and _may_use(request, model.name)


def _may_use(request: Request, model: str) -> bool:
    holder = key_holder(request.scope)
    return holder is None or holder.may_use(model)


def _monitoring(operations: Operations, metrics: Metrics, links: Mapping[str, str]) -> APIRouter:
    """Return the routes for people and scrapers."""
    api = APIRouter()

    @api.get("/metrics")
    async def series() -> Response:
        # Off the event loop: for a thousand models it takes tens of milliseconds.
        return Response(await asyncio.to_thread(metrics.render), media_type=CONTENT_TYPE)

    @api.get("/")
    async def status() -> HTMLResponse:
        fleet, drops = await operations.fleet(), await operations.drops()
        html = status_page.render(
            fleet,
            drops=drops,
            teams=await operations.teams(),
            links=links,
            notices=operations.notices(),
        )
        return HTMLResponse(html, headers=status_page.SECURITY_HEADERS)

    return api


async def _on_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, ModeliumError):
        raise error
    status = status_of(error)
    headers = {name.decode(): value.decode() for name, value in headers_of(error)}
    content = body_of(request.url.path, status, str(error), error.reason)
    return JSONResponse(content, status_code=status, headers=headers)


async def _on_invalid(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    found = "; ".join(
        f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()
    )
    return await _on_error(request, InputError(found))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    reason = error.detail.lower().replace(" ", "-")
    message = f"{request.method} {request.url.path}: {error.detail}"
    content = body_of(request.url.path, error.status_code, message, reason)
    return JSONResponse(content, status_code=error.status_code, headers=error.headers)
