"""The ``gateway`` section."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from modelium.config.fields import (
    Count,
    HttpUrl,
    Interval,
    Port,
    PositiveCount,
    Seconds,
    Section,
    Text,
    note,
    setting,
)
from modelium.models import MODEL_NAME


def _fits_a_header(token: SecretStr) -> SecretStr:
    # No client could send a token that does not fit an HTTP header.
    text = token.get_secret_value()
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError("not printable ASCII without spaces")
    return token


AliasName = Annotated[
    str,
    Field(pattern=r"^[!-~]{1,200}$"),
    note(allowed="string (up to 200 characters, no spaces)"),
]
AliasTarget = Annotated[
    str,
    Field(pattern=MODEL_NAME.removesuffix("$") + r"(:[0-9]{1,9})?$"),
    note(allowed="model name or NAME:VERSION"),
]
Token = Annotated[
    SecretStr,
    Field(min_length=1),
    AfterValidator(_fits_a_header),
    note(allowed="string (printable ASCII without spaces)", secret=True),
]


class Gateway(Section):
    """The HTTP gateway: address, access, waiting requests."""

    host: Text = setting(
        "127.0.0.1",
        "Address that the gateway listens on. Any address but loopback requires `token`.",
        why="Loopback: the gateway is not reachable over the network unless the operator "
        "configures it.",
    )
    port: Port = setting(
        8000,
        "TCP port of the gateway.",
        why="vLLM's own server uses 8000, so its clients need no new address.",
    )
    advertise: HttpUrl | None = setting(
        None,
        "URL of this gateway for the other machines of a shared store: they forward requests for "
        "models that are loaded here, and fetch files. Needs a `host` that they can reach.",
        why="Null: this machine serves its own models to its own clients only.",
    )
    tls_certificate: Path | None = setting(
        None,
        "PEM file with the certificate of this gateway and its chain; it then speaks HTTPS.",
        why="Null: plain HTTP. Off loopback use this, or a network that nobody listens in.",
    )
    tls_key: Path | None = setting(
        None,
        "PEM file with the key of `tls_certificate`.",
        why="Null: the key is in the certificate's file.",
    )
    tls_ca: Path | None = setting(
        None,
        "PEM file with the certificates by which other machines' gateways are checked.",
        why="Null: the system's.",
    )
    workers: Annotated[PositiveCount, note(unit="processes")] = setting(
        1,
        "Processes that answer clients on this machine, all on the same port; limits of waiting "
        "requests and connections are divided among them.",
        why="1: one process serves about a thousand requests a second; more need a core each.",
    )
    token: Token | None = setting(
        None,
        "Bearer token that clients must send. Required unless `host` is loopback.",
        why="Null: on loopback, users of the machine are trusted.",
    )
    aliases: dict[AliasName, AliasTarget] = setting(
        {},
        "Additional names that clients may use, each with the model, or NAME:VERSION, it "
        "stands for.",
        why="Empty: clients use the models' own names.",
    )
    max_wait_seconds: Seconds = setting(
        300.0,
        "How long a request waits for its model to load before it is answered with 503.",
        why="Five minutes cover the load of most models; many clients time out about then.",
    )
    max_waiting_per_model: Annotated[Count, note(unit="requests")] = setting(
        256,
        "Requests that may wait for one model; further ones are answered with 503 immediately.",
        why="256 limits the memory that waiting requests hold.",
    )
    max_waiting: Annotated[Count, note(unit="requests")] = setting(
        4096,
        "Requests that may wait for all models together; further ones are answered with 503 "
        "immediately.",
        why="Each holds a connection and its body; 4096 stays below the usual limit on open files.",
    )
    max_connections: Annotated[PositiveCount, note(unit="connections")] | None = setting(
        None,
        "Connections of all clients together. At the limit, the one that has waited longest for "
        "its client is closed for a new one; if all have a request in work, further ones get 503.",
        why="Null: half of the open files that the system allows this process, less 256 for its "
        "own; at most 16384.",
    )
    max_connections_per_peer: Annotated[PositiveCount, note(unit="connections")] | None = setting(
        None,
        "The same for one address of clients, loopback too. A reverse proxy is one address.",
        why="Null: three quarters of `max_connections`, so that the rest is left to others, and a "
        "proxy for all clients is hardly limited.",
    )
    client_timeout_seconds: Interval = setting(
        20.0,
        "How long a client may take to send a request's headers, and how long its body may arrive "
        "at less than 256 bytes per second; then it gets a 408. No limit for a whole body.",
        why="20 s are long for headers even on a poor line; a silent client holds a connection "
        "and memory.",
    )
    stream_comment_seconds: Interval | None = setting(
        None,
        "How often a comment is sent to a streaming request that waits for its model. Clients "
        "ignore comments, and proxies do not time out.",
        why="Null: the first comment commits to status 200, so later errors can only be "
        "reported as events.",
    )
    default_max_tokens: Annotated[PositiveCount, note(unit="tokens")] | None = setting(
        None,
        "Longest answer for a generation request that sets no limit of its own; "
        "`models.NAME.max_tokens` is the same for one model.",
        why="Null: the engine's own default applies, which is the rest of the context for most, "
        "so that one request may hold a slot for minutes.",
    )
    drain_grace_seconds: Seconds = setting(
        30.0,
        "How long an unload waits for requests in flight.",
        why="30 s lets most responses finish, and a stuck client cannot block the unload.",
    )
