"""The network interfaces of this machine."""

from __future__ import annotations

import ipaddress

import psutil


def interface_of(address: str) -> str | None:
    """Return the name of the interface that has the IP ``address``; ``None``: none has it."""
    wanted = ipaddress.ip_address(address)
    for name, held in psutil.net_if_addrs().items():
        for each in held:
            try:
                # The zone of a link-local address follows a percent sign.
                if ipaddress.ip_address(each.address.partition("%")[0]) == wanted:
                    return name
            except ValueError:  # a hardware address
                continue
    return None
