"""When a server whose processes live, but which does not answer, is given up (no I/O here).

A pause is no death: a machine that swaps, a debugger, a long prefill or the compilation of a
kernel keep a healthy server from answering for seconds. A process that has exited is another
matter: its server is lost at once, without asking here.
"""

from __future__ import annotations

from dataclasses import dataclass

STRIKES = 3
"""Looks in a row without an answer, at least: one after a long pause of ours proves nothing."""
BUSY_FACTOR = 4.0
"""How much longer a server gets that has requests in flight or that computes: giving it up loses
the requests, and an overload passes."""
BUSY_SHARE = 0.1
"""Share of one processor above which processes compute; idle loops and heartbeats stay below."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What one look at a server found."""

    at: float
    """Seconds on a monotonic clock."""
    answered: bool
    cpu_s: float = 0.0
    """Processor time of its processes since they started."""
    in_flight: int = 0
    """Requests that it was at when it last answered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Silence:
    """A server's looks in a row without an answer."""

    since: float
    strikes: int
    last: Look
    lost: bool
    """Whether it has lasted too long."""

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return self.last.at - self.since


def judge(silence: Silence | None, look: Look, *, limit_s: float) -> Silence | None:
    """Return the silence of a server after ``look``; None once it answers.

    ``silence``: as of the look before. ``limit_s``: how long one without work may last.
    """
    if look.answered:
        return None
    if silence is None:
        return Silence(since=look.at, strikes=1, last=look, lost=False)
    passed = look.at - silence.last.at
    computes = look.cpu_s - silence.last.cpu_s > BUSY_SHARE * passed
    allowed = limit_s * (BUSY_FACTOR if look.in_flight or computes else 1.0)
    strikes = silence.strikes + 1
    return Silence(
        since=silence.since,
        strikes=strikes,
        last=look,
        lost=strikes >= STRIKES and look.at - silence.since >= allowed,
    )


class Patience:
    """The silences of several servers, by name."""

    def __init__(self, *, limit_s: float) -> None:
        """``limit_s``: how long the silence of a server without work may last."""
        self._limit_s = limit_s
        self._silences: dict[str, Silence] = {}

    def look(self, name: str, look: Look) -> Silence | None:
        """Note ``look``; return the silence that it belongs to, None if the server answered."""
        silence = judge(self._silences.get(name), look, limit_s=self._limit_s)
        if silence is None:
            self._silences.pop(name, None)
        else:
            self._silences[name] = silence
        return silence

    def forget(self, name: str) -> None:
        """Start anew with the server of that name: it has ended."""
        self._silences.pop(name, None)
