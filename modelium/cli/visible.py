"""Text for a terminal, parts of which came with a drop, an engine or an LLM (no I/O here)."""

from __future__ import annotations


def visible(text: str) -> str:
    """Return ``text`` without control characters, which could command the terminal."""
    return "".join(c for c in text if c == "\n" or c.isprintable())
