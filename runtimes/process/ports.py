"""TCP ports for engines: upwards from a base, each tried before it is given out."""

from __future__ import annotations

import socket

from modelium.errors import Unavailable

SPAN = 200
"""Ports tried above the base: more engines than any one host runs."""


class PortRange:
    """Gives out ports and remembers them until they are given back."""

    def __init__(self, *, host: str, first: int) -> None:
        """``first`` 0 lets the system choose (tests)."""
        self._host = host
        self._first = first
        self._taken: set[int] = set()

    def take(self) -> int:
        """Find a port that is neither given out nor bound by anybody.

        Raises:
            Unavailable: all `SPAN` ports are taken.
        """
        candidates = range(self._first, min(self._first + SPAN, 65536)) if self._first else [0] * 50
        for candidate in candidates:
            if candidate in self._taken:
                continue
            port = self._bindable(candidate)
            if port and port not in self._taken:
                self._taken.add(port)
                return port
        raise Unavailable(
            f"no free port on {self._host} from {self._first} to {self._first + SPAN - 1}: "
            "set another base_port or stop what listens there"
        )

    def keep(self, port: int) -> None:
        """Remember that an adopted engine has ``port``."""
        self._taken.add(port)

    def give_back(self, port: int) -> None:
        """Let ``port`` be given out again."""
        self._taken.discard(port)

    def _bindable(self, port: int) -> int | None:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family) as probe:
            # As servers do: connections in TIME_WAIT of the last engine do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._host, port))
            except OSError:
                return None
            return int(probe.getsockname()[1])
