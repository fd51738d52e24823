"""The HTTP API of an engine in this process, which answers what a test says, and a recipe for it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from modelium.errors import FailureKind
from modelium.models import RuntimeName, Upstream
from modelium.ports import EngineStats, LoadRequest
from runtimes.process.supervisor import Command

NOTHING = (0, "")
"""An answer: the connection is closed without one."""

Answer = tuple[int, Any]
"""Status and body: a text or what becomes JSON."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A received request."""

    method: str
    target: str
    authorization: str | None
    body: Any


class Api:
    """Listens while it is entered; each connection gets one answer."""

    def __init__(self, **answers: Answer | Sequence[Answer]) -> None:
        """``answers``: by path, with ``__`` for a slash; of several ones, the last repeats."""
        self.answers = {
            f"/{path.replace('__', '/')}": list(found) if isinstance(found, list) else [found]
            for path, found in answers.items()
        }
        self.seen: list[Seen] = []
        self.on_request: Callable[[Seen], None] = lambda _: None

    @property
    def targets(self) -> list[str]:
        return [seen.target for seen in self.seen]

    def upstream(self, **changes: Any) -> Upstream:
        return Upstream(
            host="127.0.0.1",
            port=self.port,
            served_name="m",
            apis=frozenset({"openai"}),
            api_key="k3y",
            user=os.getuid(),
        ).model_copy(update=changes)

    async def __aenter__(self) -> Api:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])
        }
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        method, target, _ = head[0].split(" ")
        seen = Seen(
            method=method,
            target=target,
            authorization=headers.get("authorization"),
            body=json.loads(body) if body else None,
        )
        self.seen.append(seen)
        self.on_request(seen)
        answers = self.answers.get(target.partition("?")[0], [(404, "")])
        status, said = answers.pop(0) if len(answers) > 1 else answers[0]
        if status:
            data = (said if isinstance(said, str) else json.dumps(said)).encode()
            writer.write(
                f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
                "".encode()
                + data
            )
            await writer.drain()
        writer.close()


class Recipe:
    """`runtimes.engines.recipe.EngineRecipe` of an engine with the simplest log and counters."""

    spans_nodes = False

    def __init__(self, *, name: RuntimeName = RuntimeName.VLLM, probed: bool = True) -> None:
        self.name = name
        self.probed = probed
        self.failures: list[tuple[Sequence[str], int | None]] = []

    def complete(self, request: LoadRequest) -> LoadRequest:
        return replace(request)

    def command(self, request: LoadRequest, *, host: str, port: int, key: str) -> Command:
        return Command(argv=("sleep", "600"))

    def phase(self, line: str) -> tuple[str, float | None] | None:
        """Of ``phase NAME SHARE``."""
        word, *found = line.split()
        return (found[0], float(found[1])) if word == "phase" else None

    def probe(self, request: LoadRequest) -> tuple[str, dict[str, Any]] | None:
        return ("/probe", {"prompt": "1"}) if self.probed else None

    def failure(self, lines: Sequence[str], code: int | None) -> FailureKind:
        self.failures.append((lines, code))
        return FailureKind.BAD_FILES

    def smaller(self, request: LoadRequest, lines: Sequence[str]) -> LoadRequest | None:
        return None

    def stats(self, metrics: str) -> EngineStats:
        found: Mapping[str, Any] = json.loads(metrics)
        return EngineStats(**found)
