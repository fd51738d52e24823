"""An answered request is counted, and logged where a log is kept."""

from __future__ import annotations

import pytest

from modelium.traffic import RequestLog, TrafficBook
from modelium.traffic.answered import counting
from modelium.traffic.request_log import LoggedRequest
from tests.modelium.traffic.test_book import HandClock

ENTRY = LoggedRequest(at=1.0, model="m", prompt_tokens=7, generated_tokens=3, latency_s=0.5)


@pytest.mark.parametrize("logged", [True, False])
def test_tokens_count_with_and_without_a_log(logged: bool) -> None:
    book, log = TrafficBook(clock=HandClock()), RequestLog()
    counting(book, log if logged else None)(ENTRY)
    seen = book.snapshot()["m"]
    assert (seen.prompt_tokens, seen.generated_tokens, seen.longest_tokens) == (7, 3, 10)
    assert log.take() == ([ENTRY] if logged else [])
