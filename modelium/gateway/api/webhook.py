"""POST /hooks/ingest: other systems announce models that they put into the drop zone."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from modelium.control.operations import Operations
from modelium.errors import InputError
from modelium.gateway.access.keyring import key_holder
from modelium.gateway.access.strangers import Strangers
from modelium.gateway.api.admin import Ingest
from modelium.gateway.api.signatures import SIGNATURE, TIMESTAMP, Signatures
from modelium.gateway.api.teams import team_of
from modelium.gateway.asgi import BodyTooLarge, ClientGone, peer, read_body
from modelium.gateway.problems import HttpProblem
from modelium.intake.object_storage import is_url

MAX_BODY_BYTES = 64 * 1024
"""A body has a path and three short fields."""


def router(
    *,
    operations: Operations,
    incoming: Path,
    signatures: Signatures | None,
    strangers: Strangers,
) -> APIRouter:
    """Return the webhook's route.

    Args:
        operations: ingests.
        incoming: the drop zone; paths outside of it are refused, since callers of the webhook are
            trusted less than operators, who use the admin API. URLs of `ingest.sources` are not.
        signatures: check each request; ``None``: requests need no signature.
        strangers: hear of each 401.
    """
    api = APIRouter()

    @api.post("/hooks/ingest")
    async def ingest(request: Request) -> JSONResponse:
        try:
            body = await read_body(request.scope, request.receive, limit=MAX_BODY_BYTES)
        except BodyTooLarge as exc:
            message = f"the request body exceeds {MAX_BODY_BYTES} bytes"
            raise HttpProblem(413, message, reason="too-large") from exc
        except ClientGone as exc:
            raise HttpProblem(400, "the request body is incomplete", reason="bad-input") from exc
        if signatures is not None:
            try:
                signatures.check(
                    body,
                    signature=request.headers.get(SIGNATURE),
                    timestamp=request.headers.get(TIMESTAMP),
                )
            except HttpProblem as exc:
                if exc.status == 401:
                    await strangers.refused(
                        peer(request.scope), reason=exc.reason, request="POST /hooks/ingest"
                    )
                raise
        try:
            wanted = Ingest.model_validate_json(body)
        except ValidationError as exc:
            raise InputError(problems(exc)) from exc
        holder = key_holder(request.scope)
        wanted = wanted.on_behalf_of(holder)
        at = wanted.path
        if not is_url(at):
            at = str(await asyncio.to_thread(_within, incoming, wanted.path))
        wanted = await wanted.permitted(holder, Path(at), operations)
        intent = await operations.ingest(
            path=at,
            name=wanted.name,
            team=wanted.team,
            priority_ceiling=wanted.priority_ceiling,
            bound=team_of(holder),
        )
        return JSONResponse(intent.model_dump(mode="json"), status_code=202)

    return api


def problems(error: ValidationError) -> str:
    """Return all problems of a body in one line."""
    return "; ".join(
        f"{'.'.join(str(part) for part in found['loc']) or 'body'}: {found['msg']}"
        for found in error.errors(include_url=False, include_input=False)
    )


def _within(incoming: Path, given: str) -> Path:
    """Return ``given`` (absolute, or relative to ``incoming``) as a path below ``incoming``.

    Links inside are resolved. Where ``incoming`` is a link, its own name stays: by that name the
    drop zone tells its drops and teams. Blocks on disk.

    Raises:
        InputError: it is outside of ``incoming``.
    """
    try:
        root = incoming.resolve()
        path = (root / given).resolve()
    except (OSError, ValueError) as exc:
        raise InputError(f"path: {given!r} is not a valid path ({exc})") from exc
    if root not in path.parents:
        raise InputError(
            f"path: {given!r} is outside the drop zone; put it there, or ask an operator to "
            "ingest it with POST /api/v1/ingest"
        )
    return incoming / path.relative_to(root)
