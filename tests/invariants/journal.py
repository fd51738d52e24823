"""A client's own record of what it sent and what came back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(kw_only=True, slots=True)
class Sent:
    """One request."""

    model: str
    at: float
    answers: list[tuple[float, int, str | None]] = field(default_factory=list)
    """When, status, and the model that says it answered, where it does."""
    broken: list[tuple[float, str]] = field(default_factory=list)


class Journal:
    """Every request gets one answer, from the model that it names, in time."""

    HONEST = frozenset({404, 408, 413, 429, 503, 504})
    """Statuses that refuse a request and are no failure of the gateway's."""

    def __init__(self, *, within_s: float) -> None:
        """``within_s``: how long a request may take, waiting for its model included."""
        self._within_s = within_s
        self._sent: dict[str, Sent] = {}
        self._faults: list[tuple[float, float, str]] = []

    def sent(self, request: str, *, model: str, at: float) -> None:
        """Note that ``request`` was sent."""
        self._sent[request] = Sent(model=model, at=at)

    def answered(self, request: str, *, at: float, status: int, model: str | None = None) -> None:
        """Note the end of an answer; ``model``: whose it is, where the answer says so."""
        self._sent[request].answers.append((at, status, model))

    def broke(self, request: str, *, at: float, why: str) -> None:
        """Note that the connection of ``request`` ended without a whole answer."""
        self._sent[request].broken.append((at, why))

    def fault(self, since: float, until: float, model: str = "") -> None:
        """Excuse answers that break between both instants; ``model``: only those of it."""
        self._faults.append((since, until, model))

    def violations(self, *, now: float) -> Iterator[str]:
        """Yield a sentence for each request that went wrong without an excuse."""
        for name, sent in self._sent.items():
            about = f"request {name} to {sent.model}"
            ends = len(sent.answers) + len(sent.broken)
            if ends > 1:
                yield f"{about} was answered {ends} times"
            if not ends and now - sent.at > self._within_s:
                yield f"{about} has no answer after {now - sent.at:.0f} s"
            for at, status, model in sent.answers:
                if model is not None and model != sent.model:
                    yield f"{about} was answered by {model}"
                failed = status >= 500 and status not in self.HONEST
                if failed and not self._excused(sent, at):
                    yield f"{about} was answered with {status}"
                if at - sent.at > self._within_s:
                    yield f"{about} was answered after {at - sent.at:.0f} s"
            for at, why in sent.broken:
                if not self._excused(sent, at):
                    yield f"{about} broke off: {why}"

    def _excused(self, sent: Sent, at: float) -> bool:
        return any(
            since <= at and sent.at <= until and model in ("", sent.model)
            for since, until, model in self._faults
        )
