"""At which times of the day a model is asked (no I/O): what repeats daily can be loaded ahead."""

from __future__ import annotations

from modelium.models import Habit

SLOT_S = 900
"""A quarter of an hour: loads take minutes, and people begin their day less punctually."""

SLOTS = 86400 // SLOT_S
DAYS = 7
"""How far back habits reach: a week, so that working days outnumber its end."""

DAYS_NEEDED = 3
"""Fewer days than this are no habit."""

_KEPT = (1 << (DAYS + 1)) - 1


def noted(habit: Habit, at: float) -> Habit:
    """Return ``habit`` with a request at ``at`` (seconds since the epoch)."""
    day, slot = divmod(int(at // SLOT_S), SLOTS)
    if day < habit.day - DAYS:
        habit = Habit(day=day)  # the clock was far ahead once: what it saw then is no history
    newest = max(day, habit.day)
    slots = list(_as_of(habit, newest))
    slots[slot] |= _moved(1, newest - day)
    return Habit(day=newest, slots=tuple(slots))


def merged(one: Habit, other: Habit) -> Habit:
    """Return all that ``one`` and ``other`` saw."""
    day = max(one.day, other.day)
    both = zip(_as_of(one, day), _as_of(other, day), strict=True)
    return Habit(day=day, slots=tuple(a | b for a, b in both))


def days_begun(habit: Habit, *, now: float, within_s: float, since: float) -> tuple[int, int]:
    """Return on how many of the last days requests began at this time of the day, and of how many.

    They began where none came in the slot before: whoever works from nine to five is expected at
    nine, and no more for the rest of a day off.

    Args:
        habit: of the model.
        now: seconds since the epoch.
        within_s: the time that is asked about begins now and lasts so long, rounded up to slots.
        since: when the model was first asked; earlier days (UTC) do not count.

    ``(0, 0)`` where fewer than `DAYS_NEEDED` days are known; none where a request of this time
    came already today.
    """
    first, last = int(now // SLOT_S), int((now + within_s) // SLOT_S)
    known = min(DAYS, first // SLOTS - int(since // 86400))
    if known < DAYS_NEEDED or len(habit.slots) != SLOTS:
        return 0, 0

    def days(index: int) -> int:
        day, slot = divmod(index, SLOTS)
        return _moved(habit.slots[slot], day - habit.day)

    asked = 0
    for index in range(first, last + 1):
        asked |= days(index)
    if asked & 1:
        return 0, known
    begun = asked & ~days(first - 1)
    return ((begun >> 1) & ((1 << known) - 1)).bit_count(), known


def _as_of(habit: Habit, day: int) -> tuple[int, ...]:
    slots = habit.slots if len(habit.slots) == SLOTS else (0,) * SLOTS
    return tuple(_moved(days, day - habit.day) for days in slots)


def _moved(days: int, by: int) -> int:
    return (days << by if by >= 0 else days >> -by) & _KEPT if by <= DAYS else 0
