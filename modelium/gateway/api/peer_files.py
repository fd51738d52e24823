"""``/peer/files``: files of models, for the other nodes of a shared store alone."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from modelium.control.file_share import FileShare
from modelium.errors import InputError
from modelium.gateway.forwarding import sender
from modelium.gateway.problems import HttpProblem
from modelium.intake.names import is_name
from modelium.stages.http_files import HASH, PATH

Name = Annotated[str, Query(min_length=1, max_length=4096)]
Index = Annotated[int, Query(ge=0, lt=2**40)]
OCTETS = "application/octet-stream"


def only_nodes(request: Request) -> None:
    """Refuse all but nodes: neither the gateway's token nor a key is one's.

    Raises:
        HttpProblem: 403.
    """
    if sender(request.scope) is None:
        raise HttpProblem(403, "only other nodes fetch files from here", reason="forbidden")


def router(*, files: FileShare) -> APIRouter:
    """Return the routes; ``files`` reads what they give."""
    api = APIRouter(prefix=PATH, dependencies=[Depends(only_nodes)])

    @api.get("/{what}")
    async def manifest(what: str) -> Response:
        return Response(await files.manifest(*_parsed(what)), media_type="application/json")

    @api.get("/{what}/chunk")
    async def chunk(what: str, file: Name, chunk: Index) -> Response:
        stack = AsyncExitStack()
        data, found = await stack.enter_async_context(files.chunk(*_parsed(what), file, chunk))
        return _Sent(data, {HASH: found}, stack)

    return api


def _parsed(what: str) -> tuple[str, int]:
    """Return model and version of ``MODEL@VERSION``."""
    name, _, number = what.partition("@")
    if not is_name(name) or not number.isascii() or not number.isdecimal() or len(number) > 9:
        raise InputError("name files as MODEL@VERSION")
    return name, int(number)


class _Sent(Response):
    """A chunk, whose place among those that are sent is free once it has been sent."""

    def __init__(self, data: bytes, headers: dict[str, str], stack: AsyncExitStack) -> None:
        super().__init__(data, headers=headers, media_type=OCTETS)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)
