"""Whose process listens on a TCP port of this machine.

The kernel's socket diagnostics answer for one port in microseconds, however many sockets there are;
`/proc/net/tcp` lists them all and is read only where those are not available.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from pathlib import Path

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST = 1
NLMSG_ERROR = 2
LISTEN = 10
HEADER = struct.Struct("=IHHII")
"""`struct nlmsghdr`: length, type, flags, sequence, sender."""
REQUEST = struct.Struct("=BBBBI" + "2s2s16s16sI8s")
"""`struct inet_diag_req_v2`: family, protocol, …, states, ports, addresses, interface, cookie."""
ANSWER = struct.Struct("=BBBB" + "48s" + "IIIII")
"""`struct inet_diag_msg`: family, state, …, the socket's id, then timers, queues, user, inode."""
ANY_COOKIE = b"\xff" * 8
ERROR = struct.Struct("=i")
TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def listening_user(address: str, port: int) -> int | None:
    """Return the id of the user whose process listens on ``port`` at the IP address ``address``.

    Returns None if nobody listens there on this machine.
    """
    try:
        return _asked(ipaddress.ip_address(address), port)
    except OSError:
        return _listed(port)


def _asked(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> int | None:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    place = address.packed.ljust(16, b"\0")
    # There is no connection from port 0, so the kernel answers with the listening socket.
    body = REQUEST.pack(
        *(family, socket.IPPROTO_TCP, 0, 0, 1 << LISTEN),
        *(struct.pack("!H", port), b"\0\0", place, place, 0, ANY_COOKIE),
    )
    head = HEADER.pack(HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as kernel:
        kernel.send(head + body)
        answer = kernel.recv(4096)
    _, kind, *_ = HEADER.unpack_from(answer)
    if kind == NLMSG_ERROR:
        (code,) = ERROR.unpack_from(answer, HEADER.size)
        if -code == errno.ENOENT:
            return None
        raise OSError(-code, "the kernel does not tell")
    _, state, *_, user, _ = ANSWER.unpack_from(answer, HEADER.size)
    return int(user) if state == LISTEN else None


def _listed(port: int) -> int | None:
    for table in TABLES:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:  # a kernel without IPv6
            continue
        for line in lines:
            fields = line.split()
            if int(fields[3], 16) == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                return int(fields[7])
    return None
