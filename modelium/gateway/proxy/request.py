"""A request whose body has arrived (no I/O here)."""

from __future__ import annotations

from dataclasses import dataclass

from modelium.gateway.access.keyring import KeyHolder
from modelium.gateway.asgi import Scope, peer
from modelium.gateway.forwarding import Sender
from modelium.gateway.proxy.names import ModelReference
from modelium.gateway.routes import Route
from modelium.models import Priority


@dataclass(kw_only=True, slots=True)
class Request:
    """A request whose body has arrived."""

    route: Route
    named: ModelReference
    content: dict[str, object] | None
    """The fields of the body that the gateway reads, for the OpenAI API."""
    body: bytes
    """Emptied once the engine's request is made of it, so that it is not held twice."""
    scope: Scope
    holder: KeyHolder | None
    sender: Sender | None
    """The node whose gateway has forwarded it."""

    @property
    def priority(self) -> Priority | None:
        """The class that it waits in, if it has one."""
        if self.sender is not None:
            return self.sender.priority
        return self.holder.priority if self.holder is not None else None

    @property
    def client(self) -> str:
        """Whose request it is, at whichever gateway it arrived."""
        return client_of(self.scope, self.holder, self.sender)


def client_of(scope: Scope, holder: KeyHolder | None, sender: Sender | None) -> str:
    """Return a key's id, or an address."""
    if holder is not None:
        return holder.key.id
    return (sender.client if sender is not None else "") or peer(scope)
