"""Start time, memory and bytes read of one process of this machine.

Every call takes a pid, reads the kernel's tables and treats a process that has ended as an
ordinary answer.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil


def exists(pid: int) -> bool:
    """Whether there is a process ``pid`` here, even one that the kernel hides from this user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def stat_fields(pid: int) -> list[str] | None:
    """Return fields 3 and up of ``/proc/PID/stat`` (proc(5)); None without such a process.

    psutil offers neither the session of a process nor its start time in clock ticks. Its start
    time is in seconds since the epoch and moves when the wall clock is set, so an identity that
    was stored with it would not be recognized later.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # Field 2 is the command's name in parentheses; it may contain spaces and parentheses.
    return text[text.rindex(")") + 2 :].split()


def start_time(pid: int) -> int | None:
    """Return when ``pid`` started, in clock ticks since boot (proc(5), field 22).

    Pid and start time identify a process until the next boot. A zombie still has a start time;
    None means that there is no such process.
    """
    fields = stat_fields(pid)
    return int(fields[19]) if fields else None


def resident_bytes(pid: int) -> int:
    """Return the memory of ``pid`` in bytes; 0 once it has ended.

    This is the proportional set size, so that summing it over the processes of one engine counts
    shared pages once. The kernel hides it from other users; then it is the resident set size.
    """
    try:
        process = psutil.Process(pid)
        try:
            return int(process.memory_full_info().pss)
        except psutil.AccessDenied:
            return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def bytes_read(pid: int) -> int:
    """Return the bytes that ``pid`` has read since its start; 0 if it has ended or is foreign.

    Reads from files, sockets and pipes all count, whether or not they reached a disk.
    """
    try:
        return int(psutil.Process(pid).io_counters().read_chars)
    except psutil.Error:
        return 0
