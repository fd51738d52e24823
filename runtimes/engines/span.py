"""Where the parts of a model over several nodes meet, as an engine needs it."""

from __future__ import annotations

import socket
from dataclasses import replace

from modelium.devices.interfaces import interface_of
from modelium.errors import FailureKind, LoadFailed
from modelium.ports import Span


def located(span: Span) -> Span:
    """Return ``span`` with IP addresses for names, and the interface of this node's own.

    Engines bind to their address and do not look names up, and many machines have their own name
    resolve to loopback. Blocks on the look-up.

    Raises:
        LoadFailed: of kind ``environment``: an address is not known, or not of this machine.
    """
    addresses = tuple(_ip(address) for address in span.addresses)
    own = addresses[span.rank]
    interface = interface_of(own)
    if interface is None:
        raise LoadFailed(
            f"no network interface of this machine has the address {own} "
            f"({span.addresses[span.rank]}), by which the other nodes know it: set "
            "gateway.advertise to an address of the machine itself",
            kind=FailureKind.ENVIRONMENT,
        )
    return replace(span, addresses=addresses, interface=interface)


def _ip(address: str) -> str:
    try:
        found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise LoadFailed(
            f"the address {address} of a node is not known here: correct its gateway.advertise, or "
            "the names that this machine knows",
            kind=FailureKind.ENVIRONMENT,
        ) from exc
    return str(found[0][4][0])
