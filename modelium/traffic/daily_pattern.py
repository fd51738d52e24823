"""The times of the day at which a model receives requests, so that it can be loaded in advance."""

from __future__ import annotations

from modelium.models import Habit

SLOT_S = 900
"""A quarter of an hour: loads take minutes, and the start of people's days varies by more."""

SLOTS = 86400 // SLOT_S
DAYS = 7
"""Length of the history: a week, so that working days outnumber the weekend."""

DAYS_NEEDED = 3
"""Minimum number of days from which a pattern is derived."""

_KEPT = (1 << (DAYS + 1)) - 1


def with_request(habit: Habit, at: float) -> Habit:
    """Return ``habit`` with a request at ``at`` (epoch seconds) added."""
    day, slot = divmod(int(at // SLOT_S), SLOTS)
    if day < habit.day - DAYS:
        habit = Habit(day=day)  # the clock was once far ahead: discard that history
    newest = max(day, habit.day)
    slots = list(_as_of(habit, newest))
    slots[slot] |= _moved(1, newest - day)
    return Habit(day=newest, slots=tuple(slots))


def merge(one: Habit, other: Habit) -> Habit:
    """Return the union of ``one`` and ``other``."""
    day = max(one.day, other.day)
    both = zip(_as_of(one, day), _as_of(other, day), strict=True)
    return Habit(day=day, slots=tuple(a | b for a, b in both))


def days_begun(habit: Habit, *, now: float, within_s: float, since: float) -> tuple[int, int]:
    """Return on how many recent days requests began at this time of the day, and of how many days.

    They began in a slot if the slot before had none: a model that is used from nine to five is
    expected at nine, and on a day off it is not expected during the rest of the day.

    Args:
        habit: the model's history.
        now: epoch seconds.
        within_s: length of the interval in question, which starts now; rounded up to slots.
        since: epoch seconds of the model's first request; earlier days (UTC) do not count.

    Returns:
        Days with a beginning and days known; ``(0, 0)`` if fewer than `DAYS_NEEDED` are known,
        and no day with a beginning if today already has a request in the interval.
    """
    first, last = int(now // SLOT_S), int((now + within_s) // SLOT_S)
    known = min(DAYS, first // SLOTS - int(since // 86400))
    if known < DAYS_NEEDED or len(habit.slots) != SLOTS:
        return 0, 0

    def days(index: int) -> int:
        day, slot = divmod(index, SLOTS)
        return _moved(habit.slots[slot], day - habit.day)

    requested = 0
    for index in range(first, last + 1):
        requested |= days(index)
    if requested & 1:
        return 0, known
    begun = requested & ~days(first - 1)
    return ((begun >> 1) & ((1 << known) - 1)).bit_count(), known


def _as_of(habit: Habit, day: int) -> tuple[int, ...]:
    slots = habit.slots if len(habit.slots) == SLOTS else (0,) * SLOTS
    return tuple(_moved(days, day - habit.day) for days in slots)


def _moved(days: int, by: int) -> int:
    return (days << by if by >= 0 else days >> -by) & _KEPT if by <= DAYS else 0
