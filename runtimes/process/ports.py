"""TCP ports for engines: each is bound once, as a test, before it is handed out."""

from __future__ import annotations

from modelium.config.hosts import bind
from modelium.errors import Unavailable

SPAN = 200
"""Ports that are tried from the first on: more engines than any one host runs."""


def free_port(host: str, port: int = 0) -> int | None:
    """Return ``port`` if a server could listen on it at ``host`` now, else None.

    For port 0 the system chooses one.
    """
    try:
        with bind(host, port) as bound:
            return int(bound.getsockname()[1])
    except OSError:
        return None


class PortRange:
    """Reserves ports from ``first`` upwards until they are released."""

    def __init__(self, *, host: str, first: int) -> None:
        """``first`` 0 lets the system choose each port (tests)."""
        self._host = host
        self._first = first
        self._reserved: set[int] = set()

    def reserve(self) -> int:
        """Reserve the lowest port that is neither reserved nor in use.

        Raises:
            Unavailable: all `SPAN` ports are in use.
        """
        last = min(self._first + SPAN, 65536)
        for candidate in range(self._first, last) if self._first else [0] * SPAN:
            if candidate in self._reserved:
                continue
            port = free_port(self._host, candidate)
            if port and port not in self._reserved:
                self._reserved.add(port)
                return port
        raise Unavailable(
            f"no free port on {self._host} from {self._first} to {self._first + SPAN - 1}: "
            "set another base_port or stop the programs that listen there"
        )

    def add(self, port: int) -> None:
        """Reserve ``port``, which an adopted engine already uses."""
        self._reserved.add(port)

    def release(self, port: int) -> None:
        """Let ``port`` be reserved again."""
        self._reserved.discard(port)
