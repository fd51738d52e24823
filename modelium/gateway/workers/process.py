"""What runs in a worker: the data plane, by the service's table."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from modelium import config
from modelium.clock import SystemClock
from modelium.errors import Unavailable
from modelium.gateway.access.auth import AuthMiddleware
from modelium.gateway.access.identities import Identities
from modelium.gateway.access.keyring import Keyring, key_holder
from modelium.gateway.access.strangers import Strangers
from modelium.gateway.asgi import Receive, Scope, Send, respond_json
from modelium.gateway.certificates import certificate_of, trust_of
from modelium.gateway.connections import Connections, bounds_for, raise_open_files
from modelium.gateway.http_server import HttpServer, short_path
from modelium.gateway.problems import HttpProblem, body_of, headers_of
from modelium.gateway.proxy.dataplane import DataPlane
from modelium.gateway.proxy.held import MAX_HELD_BYTES
from modelium.gateway.proxy.names import Names
from modelium.gateway.proxy.upstream import UpstreamClient
from modelium.gateway.routes import Route
from modelium.gateway.workers.channel import Channel, Frame
from modelium.gateway.workers.counts import Counts
from modelium.gateway.workers.inward import SOCKET, Inward
from modelium.gateway.workers.start import Start
from modelium.gateway.workers.table import Table
from modelium.gateway.workers.turnstile import Turnstile
from modelium.models.api_keys import ApiKey

ROUTE = "modelium.route"
"""Key of the data plane's route in a request's ASGI scope."""


class Lines(logging.Handler):
    """Sends lines of the log to the service."""

    def __init__(self, counts: Counts) -> None:
        """``counts``: carries them."""
        super().__init__()
        self._counts = counts

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line."""
        self._counts.on_line(record.levelno, record.name, self.format(record))


class Worker:
    """Answers clients on one socket until the service has it stop."""

    def __init__(self, *, listener: socket.socket) -> None:
        """``listener``: listens on the gateway's port."""
        self._listener = listener
        self._frames: asyncio.Queue[Frame | None] = asyncio.Queue()
        self.channel = Channel(
            on_frame=self._frames.put_nowait, on_end=lambda: self._frames.put_nowait(None)
        )
        self._counts = Counts(send=lambda summed, batch: self.channel.send("counts", summed, batch))
        self._table = Table(counts=self._counts)
        self._turnstile = Turnstile(
            ask=lambda number, key: self.channel.send("enter", number, key),
            left=self._counts.on_left,
        )
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Do what the service says, until it says stop or has ended."""
        async with AsyncExitStack() as stack:
            word, start = await self._next()
            if word != "start":
                raise RuntimeError(f"the service began with {word!r}")
            server = await self._build(Start(**start), stack)
            table = self._table
            calls: dict[str, Callable[..., None]] = {
                "limit": table.limit,
                "know": table.know,
                "open": table.open,
                "set_aside": table.set_aside,
                "close": table.close,
                "refuse": table.refuse,
                "expect": table.expect,
                "keys": self._take_keys,
                "apply": self._apply,
                "nodes": self._take_nodes,
                "entered": self._turnstile.answered,
                "sync": lambda number: self.channel.send("answer", number, True),
                "drain": self._drain,
                "serve": lambda: serving.append(asyncio.create_task(self._serve(server))),
            }
            serving: list[asyncio.Task[None]] = []
            while (frame := await self._next())[0] != "stop":
                calls[frame[0]](*frame[1:])
            server.should_exit = True
            await asyncio.gather(*serving)
            for task in self._tasks:
                task.cancel()
            self._counts.flush()
            self.channel.close()

    async def _next(self) -> Frame:
        frame = await self._frames.get()
        if frame is None:
            # Nothing that is here counts any more, and the next service needs the port.
            raise SystemExit("the service has ended")
        return frame

    async def _build(self, start: Start, stack: AsyncExitStack) -> HttpServer:
        """Build what answers clients."""
        lines = Lines(self._counts)
        logging.basicConfig(level=start.level, handlers=[lines], format="%(message)s", force=True)
        settings = config.Gateway.model_validate(start.gateway)
        clock, counts, workers = SystemClock(), self._counts, settings.workers
        client = await stack.enter_async_context(UpstreamClient(trust=trust_of(settings)))
        inner = stack.enter_context(short_path(Path(start.folder)))
        self._inward = Inward(client=client, path=f"{inner}/{SOCKET}")
        self._keys = Keyring(
            read=_none, clock=clock, important_teams=frozenset(start.important_teams)
        )
        self._names = Names(aliases=settings.aliases)
        self._data = DataPlane(
            switchboard=self._table,
            client=client,
            names=self._names,
            refusals=counts,
            clock=clock,
            on_answered=counts.on_logged if start.logs else None,
            on_forwarded=counts.on_forwarded if start.logs_forwarded else None,
            max_body_bytes=start.max_body_bytes,
            max_held_bytes=MAX_HELD_BYTES // workers,
            comment_every_s=settings.stream_comment_seconds,
            default_max_tokens=settings.default_max_tokens,
            max_tokens=start.max_tokens,
        )
        stack.callback(self._data.close)
        nodes = Identities(read=self._read_nodes, clock=clock) if start.shared else None
        if nodes is not None:
            self._later(self._know(nodes))
        certificate = certificate_of(settings)
        if certificate is not None:
            self._later(certificate.watch())
        token = settings.token
        self._inference = AuthMiddleware(
            app=self._infer,
            token=token.get_secret_value() if token else None,
            keys=self._keys,
            nodes=nodes,
            host=settings.host,
            strangers=Strangers(clock=clock, count=counts.on_unauthorized),
        )
        most, most_each = settings.max_connections, settings.max_connections_per_peer
        guard = Connections(
            bounds=bounds_for(
                most=most and math.ceil(most / workers),
                most_each=most_each and math.ceil(most_each / workers),
                timeout_s=settings.client_timeout_seconds,
                open_files=raise_open_files(),
            )
        )
        self._later(guard.watch())
        return HttpServer(
            self._dispatch,
            guard=guard,
            grace_s=start.grace_s,
            tls=certificate.context if certificate else None,
        )

    async def _know(self, nodes: Identities) -> None:
        await nodes.refresh()
        await nodes.run()

    async def _read_nodes(self) -> Mapping[str, str]:
        said: asyncio.Future[Mapping[str, str]] = asyncio.get_running_loop().create_future()
        self._nodes_said = said
        self.channel.send("nodes")
        return await said

    def _take_nodes(self, nodes: Mapping[str, str] | str) -> None:
        if isinstance(nodes, str):
            self._nodes_said.set_exception(Unavailable(nodes))
        else:
            self._nodes_said.set_result(nodes)

    async def _serve(self, server: HttpServer) -> None:
        serving = asyncio.create_task(server.serve(sockets=[self._listener]))
        await server.up.wait()
        self.channel.send("up")
        await serving

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._data.route(scope)
        if route is None:
            await self._inward(scope, receive, send)
        else:
            scope[ROUTE] = route
            await self._inference(scope, receive, send)

    async def _infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        route: Route = scope[ROUTE]
        holder = key_holder(scope)
        key = self._turnstile.limited(holder.key) if holder is not None else None
        model = self._names.resolve(route.model).model if route.model else ""
        if holder is None or key is None or (model and not holder.may_use(model)):
            return await self._data.answer(route, scope, receive, send)
        try:
            await self._turnstile.enter(key)
        except HttpProblem as exc:
            self._counts.on_request_refused(model, exc.reason)
            body = body_of(scope["path"], exc.status, str(exc), exc.reason)
            return await respond_json(send, exc.status, body, headers_of(exc))
        try:
            await self._data.answer(route, scope, receive, send)
        finally:
            self._turnstile.leave(key)

    def _take_keys(self, keys: Mapping[str, Mapping[str, Any]]) -> None:
        found = {hashed: ApiKey.model_validate(key) for hashed, key in keys.items()}
        self._keys.take(self._turnstile.take(found))

    def _apply(
        self,
        aliases: Mapping[str, str],
        important_teams: list[str],
        default_max_tokens: int | None,
        max_tokens: Mapping[str, int],
    ) -> None:
        self._names.replace(aliases)
        self._keys.rank(frozenset(important_teams))
        self._data.bound(default_max_tokens, max_tokens)

    def _drain(self, number: int, model: str, timeout_s: float) -> None:
        async def answer() -> None:
            drained = await self._table.drained(model, timeout_s)
            self._counts.flush()
            self.channel.send("answer", number, drained)

        self._later(answer())

    def _later(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _none() -> Mapping[str, ApiKey]:
    return {}
