"""What becomes of an answered request: its tokens are counted, and it may be logged."""

from __future__ import annotations

from collections.abc import Callable

from modelium.traffic.book import TrafficBook
from modelium.traffic.request_log import LoggedRequest, RequestLog


def counting(book: TrafficBook, log: RequestLog | None) -> Callable[[LoggedRequest], None]:
    """Return what is to be called for each answered request; ``log``: ``None``: none is kept."""

    def on_answered(entry: LoggedRequest) -> None:
        book.on_answered(
            entry.model,
            prompt_tokens=entry.prompt_tokens,
            generated_tokens=entry.generated_tokens,
        )
        if log is not None:
            log.add(entry)

    return on_answered
