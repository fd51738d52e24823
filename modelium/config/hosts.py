"""Host names, IP addresses and ports of TCP listeners.

Only `bind`, `free_port` and `addresses` do I/O.
"""

from __future__ import annotations

import ipaddress
import socket


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``.

    Names other than ``localhost`` are not resolved and count as reachable from elsewhere. IPv6
    addresses may have brackets.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


METADATA = frozenset(
    ipaddress.ip_address(one) for one in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")
)
"""Where clouds serve credentials of the machine outside the link-local networks."""


def is_metadata(address: str) -> bool:
    """Whether an IP address is link-local or a cloud's metadata service.

    Names are not resolved: those that are the metadata service's are found, others are not.
    """
    host = address.strip("[]").rstrip(".").lower()
    if host in ("metadata", "metadata.google.internal", "instance-data.ec2.internal"):
        return True
    try:
        # As resolvers read them: 2852039166, 0xa9.0xfe.43518 and 169.254.43518 are addresses, too.
        found = ipaddress.ip_address(socket.inet_aton(host)) if "%" not in host else None
    except (OSError, UnicodeEncodeError):
        found = None
    if found is None:
        try:
            found = ipaddress.ip_address(host)
        except ValueError:
            return False
    mapped = getattr(found, "ipv4_mapped", None) or found
    return mapped.is_link_local or mapped in METADATA


def addresses(host: str) -> list[str]:
    """Return the IP addresses of ``host``; none if it cannot be resolved. Blocks."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return sorted({str(one[4][0]) for one in found})


def bracketed(host: str) -> str:
    """Return ``host`` as URLs spell it: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


def authority(host: str, port: int) -> str:
    """Return ``host:port`` as URLs and the Host header spell it."""
    return f"{bracketed(host)}:{port}"


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Return a TCP socket that is bound to ``host`` and does not listen yet; close it.

    It is bound with ``SO_REUSEADDR``, as servers bind theirs: connections in TIME_WAIT do not
    block the port. ``port`` 0 takes any free one. ``shared``: further sockets of this user may be
    bound to it, among which the kernel distributes connections (``SO_REUSEPORT``).

    Raises:
        OSError: the port is taken, or ``host`` is not an address of this machine.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def free_port(host: str, count: int = 1) -> int:
    """Return the first of ``count`` consecutive TCP ports of ``host`` that were free a moment ago.

    Raises:
        OSError: ``host`` is not an address of this machine.
    """
    while True:
        with bind(host, 0) as bound:
            first = int(bound.getsockname()[1])
        try:
            for port in range(first + 1, first + count):
                bind(host, port).close()
        except (OSError, OverflowError):
            continue
        return first
