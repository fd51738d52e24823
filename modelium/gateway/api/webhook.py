"""POST /hooks/ingest: other systems announce a model that they put into the drop zone."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from modelium.errors import InputError
from modelium.gateway.access.keyring import holder_of
from modelium.gateway.api.admin import Ingest, Operations
from modelium.gateway.asgi import BodyTooLarge, ClientGone, read_body
from modelium.gateway.problems import HttpProblem

SIGNATURE = "x-modelium-signature"

MAX_BODY_BYTES = 64 * 1024
"""A path and three words."""


def router(*, operations: Operations, incoming: Path, secret: str | None) -> APIRouter:
    """Return the webhook's route.

    Args:
        operations: what it asks.
        incoming: the drop zone; a hook may announce nothing outside of it, since whoever can
            call it is trusted less than an operator, who uses the admin API for any other path.
        secret: when set, the body's HMAC-SHA256 must come in ``X-Modelium-Signature``.
    """
    api = APIRouter()

    @api.post("/hooks/ingest")
    async def ingest(request: Request) -> JSONResponse:
        try:
            body = await read_body(request.scope, request.receive, limit=MAX_BODY_BYTES)
        except BodyTooLarge as exc:
            message = f"the body is over {MAX_BODY_BYTES} bytes"
            raise HttpProblem(413, message, reason="too-large") from exc
        except ClientGone as exc:
            raise HttpProblem(400, "the body is incomplete", reason="bad-input") from exc
        if secret is not None and not signed(body, request.headers.get(SIGNATURE), secret):
            message = "X-Modelium-Signature must be sha256= and the body's HMAC with the secret"
            raise HttpProblem(401, message, reason="bad-signature")
        try:
            asked = Ingest.model_validate_json(body)
        except ValidationError as exc:
            raise InputError(problems(exc)) from exc
        asked = asked.by(holder_of(request.scope))
        path = await asyncio.to_thread(_within, incoming, asked.path)
        intent = await operations.ingest(
            path=str(path),
            name=asked.name,
            team=asked.team,
            priority_ceiling=asked.priority_ceiling,
        )
        return JSONResponse(intent.model_dump(mode="json"), status_code=202)

    return api


def signed(body: bytes, signature: str | None, secret: str) -> bool:
    """Return whether ``signature`` (``sha256=HEX``) is that of ``body``; takes constant time."""
    if signature is None:
        return False
    expected = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected.encode(), signature.strip().lower().encode())


def problems(error: ValidationError) -> str:
    """Return what is wrong with a body, in one line."""
    return "; ".join(
        f"{'.'.join(str(part) for part in found['loc']) or 'body'}: {found['msg']}"
        for found in error.errors(include_url=False, include_input=False)
    )


def _within(incoming: Path, given: str) -> Path:
    """Return ``given`` (relative to ``incoming``, or absolute), links resolved; blocks on the disk.

    Raises:
        InputError: it is not below ``incoming``.
    """
    try:
        root = incoming.resolve()
        path = (root / given).resolve()
    except (OSError, ValueError) as exc:
        raise InputError(f"path: {given!r} is no usable path ({exc})") from exc
    if root not in path.parents:
        raise InputError(
            f"path: {given!r} is not in the drop zone; put it there, or let an operator import "
            "it with POST /api/v1/ingest"
        )
    return path
