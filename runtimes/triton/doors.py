"""Where a Triton server is reached, and what keeps others out.

Whoever reaches Triton's model control runs code as its user: a load may bring its own python
backend. A server of Modelium's own therefore listens on Unix sockets in a folder that only its
user can enter. Triton takes a token for its APIs on its command line alone, which every user of
the machine can read, so a token is the second choice: for a command with addresses of its own, such
as a container's.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from modelium.config import Triton as TritonSection
from modelium.config.hosts import authority
from modelium.errors import ConfigError
from runtimes.process.fresh_file import fresh_file
from runtimes.process.socket_folder import empty, make_private, open_private, socket_folder

HTTP, GRPC, METRICS = "http", "grpc", "metrics"
GRPC_PORT = 2
"""Triton appends ``:PORT`` to the path of the gRPC socket; the three ports have to differ."""
ADDRESSES = frozenset({"--http-address", "--http-port", "--grpc-address", "--grpc-port"})
RESTRICTED = (
    *("metadata", "inference", "shared-memory", "model-config", "model-repository"),
    *("statistics", "trace", "logging"),
)
"""All APIs but health."""
HEADER = "authorization"
GRPC_PREFIX = "triton-grpc-protocol-"
"""Triton looks for the header under this prefix in gRPC's metadata."""
LIVE_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Doors:
    """The addresses of one server. `of`, `token` and `prepare` do I/O."""

    host: str
    port: int
    grpc: str
    """Target of gRPC: ``host:port`` or ``unix:PATH``."""
    socket: str = ""
    """The Unix socket of HTTP; empty: it listens at ``host`` and ``port``."""
    folder: Path | None = None
    """Holds the sockets, or the token; None for a server of the user's."""

    @classmethod
    def of(cls, config: TritonSection, directory: Path) -> Doors:
        """Return the doors of the configured server; ``directory``: of a server of Modelium's own.

        Raises:
            ConfigError: an address is invalid.
        """
        address = urlsplit(config.endpoint)
        try:
            port = address.port or 80
        except ValueError as exc:
            raise ConfigError(f"triton.endpoint {config.endpoint!r}: {exc}") from exc
        if address.scheme != "http" or not address.hostname:
            raise ConfigError("triton.endpoint must be http://HOST:PORT")
        host, grpc = address.hostname, config.grpc_address
        if config.command is None:
            return cls(host=host, port=port, grpc=grpc)
        if given_options(config.command) & ADDRESSES:
            # Triton 2.51 binds 255.255.255.255 for a name: an address is passed, and used.
            grpc_host, _, grpc_port = grpc.rpartition(":")
            grpc = f"{numeric(grpc_host)}:{grpc_port}"
            return cls(host=numeric(host), port=port, grpc=grpc, folder=directory)
        longest = max(map(len, (HTTP, METRICS, f"{GRPC}:{GRPC_PORT}")))
        folder = socket_folder(directory / "run", longest_name=longest)
        return cls(
            host=host,
            port=port,
            grpc=f"unix:{folder / GRPC}:{GRPC_PORT}",
            socket=str(folder / HTTP),
            folder=folder,
        )

    @property
    def http(self) -> str:
        """Where HTTP is reached, for messages."""
        return f"unix:{self.socket}" if self.socket else f"http://{authority(self.host, self.port)}"

    @property
    def advice(self) -> str:
        """What to do if nothing answers."""
        if self.socket:
            return (
                "see its log; a container needs --http-address and --grpc-address in "
                "triton.command, or a mount of that folder"
            )
        return "start it, or correct triton.endpoint and triton.grpc_endpoint"

    def options(self) -> dict[str, str]:
        """Return the options that make a server of Modelium's own listen here and nowhere else."""
        if self.socket and self.folder:
            return {
                "--http-address": f"unix:{self.folder / HTTP}",
                "--http-port": str(GRPC_PORT - 1),
                "--grpc-address": f"unix:{self.folder / GRPC}",
                "--grpc-port": str(GRPC_PORT),
                "--metrics-address": f"unix:{self.folder / METRICS}",
                "--metrics-port": str(GRPC_PORT + 1),
            }
        grpc_host, _, grpc_port = self.grpc.rpartition(":")
        rule = f"{','.join(RESTRICTED)}:{HEADER}=Bearer {self.token()}"
        return {
            "--http-address": self.host,
            "--http-port": str(self.port),
            "--grpc-address": grpc_host,
            "--grpc-port": grpc_port,
            "--metrics-address": self.host,
            "--metrics-port": str(int(grpc_port) + 1),
            "--http-restricted-api": rule,
            "--grpc-restricted-protocol": rule,
        }

    def token(self) -> str | None:
        """Return the bearer token of the restricted APIs, made at the first call; None: none."""
        if self.folder is None or self.socket:
            return None
        path = self.folder / "token"
        try:
            return path.read_text()
        except FileNotFoundError:
            make_private(self.folder)
            token = secrets.token_urlsafe(32)
            with fresh_file(path) as file:
                file.write(token.encode())
            return token

    def grpc_headers(self) -> dict[str, str] | None:
        """Return the metadata that the restricted protocols of gRPC want."""
        token = self.token()
        return {GRPC_PREFIX + HEADER: f"Bearer {token}"} if token else None

    def prepare(self) -> None:
        """Make the folder, and remove the sockets of a server that has ended.

        Raises:
            Unavailable: the folder belongs to another user.
        """
        if self.folder and self.socket:
            place = open_private(self.folder)
            try:
                empty(place)
            finally:
                os.close(place)


def given_options(command: Sequence[str]) -> set[str]:
    """Return the names of the options in ``command``."""
    return {argument.partition("=")[0] for argument in command}


def numeric(host: str) -> str:
    """Return the address of ``host``, IPv4 where it has one; ``host`` if it cannot be resolved."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return host
    return str(min(found, key=lambda one: one[0] != socket.AF_INET)[4][0])


async def live_problem(doors: Doors) -> str:
    """Return what is wrong with the server's HTTP; empty if it answers that it is live."""
    # A connection of its own each time: a load over HTTP freezes those that are kept.
    transport = httpx.AsyncHTTPTransport(uds=doors.socket or None)
    host = "localhost" if doors.socket else authority(doors.host, doors.port)
    async with httpx.AsyncClient(transport=transport, timeout=LIVE_S, trust_env=False) as client:
        try:
            answer = await client.get(f"http://{host}/v2/health/live")
        except httpx.HTTPError as exc:
            return f"does not answer ({type(exc).__name__})"
    if answer.status_code == httpx.codes.OK:
        return ""
    return f"answers /v2/health/live with status {answer.status_code}"
