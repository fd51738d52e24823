"""Frames of JSON between the service and a worker: a length, then a list."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

LENGTH_BYTES = 4
"""Size of the length that precedes a frame, big-endian."""

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""Longer than a table of 100,000 models; whoever announces more has lost count."""

MAX_UNREAD_BYTES = 256 * 1024 * 1024
"""What may wait for the other side to read: minutes of counts. It has then been stopped."""

Frame = list[Any]
"""A word that says what it is, and what belongs to it."""


class Channel(asyncio.Protocol):
    """One end. Frames are handed over in the order in which they were sent."""

    def __init__(self, *, on_frame: Callable[[Frame], None], on_end: Callable[[], None]) -> None:
        """``on_frame``: called with each frame; ``on_end``: once, after the last one."""
        self._on_frame = on_frame
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()

    def send(self, *frame: Any) -> None:
        """Send a frame; one that comes after the end is dropped."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        body = json.dumps(frame, separators=(",", ":")).encode()
        if transport.get_write_buffer_size() + len(body) > MAX_UNREAD_BYTES:
            transport.abort()
            return
        transport.write(len(body).to_bytes(LENGTH_BYTES, "big") + body)

    def close(self) -> None:
        """Close it once everything is sent."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        """Hand over the frames that are complete."""
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= LENGTH_BYTES:
            size = int.from_bytes(buffer[at : at + LENGTH_BYTES], "big")
            if size > MAX_FRAME_BYTES:
                buffer.clear()
                if self._transport is not None:
                    self._transport.abort()
                return
            if len(buffer) - at < LENGTH_BYTES + size:
                break
            at += LENGTH_BYTES
            frame = json.loads(buffer[at : at + size])
            at += size
            self._on_frame(frame)
        del buffer[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        """Say that it has ended."""
        self._on_end()
