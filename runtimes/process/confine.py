"""Confines itself with Landlock, then becomes the program that follows.

``python -I -S confine.py PROGRAM ARGUMENT…`` with a JSON object in MODELIUM_SANDBOX, which the
program does not inherit:

- ``hidden``: files and folders that it may not open, nor files beside them (but in `FILES_OF`);
  everything else can be read, but for devices that no engine needs,
- ``shown``: files and folders below hidden ones that it may read all the same,
- ``writable``: files and folders that it may change; nothing else can be. ``/proc/self`` among
  them: the entries of its own processes,
- ``connects``: whether it may open TCP connections (from Landlock's ABI 4 on).

No path of a rule may pass through a link, since another engine may have laid it a moment ago; the
service resolves those of the operator.

A program of its own, since Landlock binds the process that calls it, and next to nothing may happen
between a fork and an exec of a process with threads. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator

VARIABLE = "MODELIUM_SANDBOX"

COPY_MOUNTS, ATTACH_MOUNTS, SET_ATTRIBUTES = 428, 429, 442
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""System calls; the numbers are the same on all architectures."""
VERSION_FLAG = PATH_BENEATH = 1
NO_NEW_PRIVILEGES, DROP_CAPABILITY = 38, 24
CAPABILITIES_VERSION, LAST_CAPABILITY = 0x20080522, 63
KEPT_CAPABILITIES = frozenset({1, 14})
"""Of root: DAC_OVERRIDE, as models and caches may belong to another user, and IPC_LOCK, as engines
pin memory. Others would undo the confinement: with CHOWN and FOWNER any file can be given away, as
Landlock does not govern that; with PERFMON all environments can be read."""

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
CHANGES = sum(1 << bit for bit in range(4, 13))  # remove and make entries of every kind
REFER, TRUNCATE = 1 << 13, 1 << 14
READ = EXECUTE | READ_FILE | READ_DIR
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
CONNECT_TCP = 1 << 1
SCOPES = 0b11
"""No signals to, and no abstract Unix sockets of, processes outside (ABI 6)."""

FILES_OF = ("/", "/etc", "/etc/ssl", "/run")
"""Folders whose files may be read although something beside them is hidden."""
DEVICES = (
    *("null", "zero", "full", "random", "urandom", "tty"),
    *("kfd", "dri", "dxg", "infiniband", "gdrdrv"),
)
"""In /dev, beside NVIDIA's: no disks, no memory, and no terminals of the user's sessions."""
OWN_PROCESS = "/proc/self"
MOUNTS = "/proc/self/mountinfo"
SETTINGS = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs")
"""Where root can change the kernel's settings without any capability."""
ANY_WRITE, NEW_MOUNTS = 0o222, 0x20000
BIND, RECURSIVE, SLAVE = 1 << 12, 1 << 14, 1 << 19
READ_ONLY, NO_SETUID, NO_DEVICES, NO_PROGRAMS = 1, 2, 4, 8
WHOLE_TREE, COPY, ATTACHED, HERE = 0x8000, 0x1001, 0x44, -100
DRIVER, DEVICE_FILE = "/proc/driver/nvidia", "/dev/nvidia-uvm"


class Ruleset(ctypes.Structure):
    """`struct landlock_ruleset_attr`."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in ("files", "network", "scopes"))


class PathRule(ctypes.Structure):
    """`struct landlock_path_beneath_attr`."""

    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


libc = ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """Return the version of Landlock that the kernel offers; 0: none."""
    return max(0, int(libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION_FLAG)))


def readable(hidden: Iterable[str], shown: Iterable[str]) -> Iterator[str]:
    """Yield the trees that make up everything but ``hidden``, and ``shown``.

    A rule opens a whole tree, so a folder with something hidden in it is given entry by entry, of
    which files only in `FILES_OF`: a rule keeps its file's blocks from being freed when the file is
    removed, for as long as the engine lives.
    """
    closed = {"/dev", *map(os.path.realpath, hidden)}

    def below(folder: str) -> Iterator[str]:
        try:
            entries = list(os.scandir(folder))
        except OSError:
            return
        for entry in entries:
            if entry.path in closed or entry.is_symlink():
                continue  # the target of a link is opened, or not, where it is
            if any(path.startswith(entry.path + "/") for path in closed):
                yield from below(entry.path)
            elif folder in FILES_OF or entry.is_dir():
                yield entry.path

    yield from below("/")
    yield from shown


def devices(folder: str = "/dev") -> Iterator[str]:
    """Yield the entries of ``folder`` that engines need."""
    for entry in os.scandir(folder):
        if entry.name in DEVICES or entry.name.startswith("nvidia"):
            yield entry.path


def confine(
    *, hidden: Iterable[str], shown: Iterable[str], writable: Iterable[str], connects: bool
) -> None:
    """Restrict this process and all that it starts.

    Raises:
        OSError: the kernel has no Landlock, or it is off.
    """
    version = abi()
    changes = CHANGES | WRITE_FILE | REFER * (version >= 2) | TRUNCATE * (version >= 3)
    handled = Ruleset(files=READ | changes)
    if version >= 4 and not connects:
        handled.network = CONNECT_TCP
    if version >= 6:
        handled.scopes = SCOPES
    # Older kernels know the first fields alone.
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _checked(CREATE_RULESET, ctypes.byref(handled), ctypes.c_size_t(size), 0)
    for path in readable(hidden, shown):
        _allow(ruleset, path, READ)
    for path in (writable := tuple(writable)):
        _allow(ruleset, own_processes(writable) if path == OWN_PROCESS else path, READ | changes)
    _allow(ruleset, "/dev", READ_DIR)
    for path in devices():
        _allow(ruleset, path, READ_DIR | READ_FILE | WRITE_FILE)
    _drop_capabilities()
    if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs is refused")
    _checked(RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def own_processes(writable: Iterable[str]) -> str:
    """Return the folder with the entries of this process and, where it can, of all its children.

    CUDA names its threads by writing below /proc, and a process that may not do so cannot use a GPU
    (error 304). A rule for one process does not cover its children, and their numbers are not known
    yet: they are covered by a rule for /proc, where the kernel's settings are mounted read-only.
    """
    files_or_folders = (p for p in writable if os.path.isdir(p) or os.path.isfile(p))
    _make_own_mounts(path for path in files_or_folders if path != OWN_PROCESS)
    return "/proc" if _settings_are_closed() else os.path.realpath(OWN_PROCESS)


def _settings_are_closed() -> bool:
    """Whether they are read-only in /proc, and a rule for it covers no other mount of it."""
    device = os.stat("/proc").st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with open(MOUNTS, encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            _, _, mounted, root, place, *_ = line.split(" ")
            if (mounted, root) == (number, "/") and place != "/proc":
                return False
    return all(os.statvfs(p).f_flag & os.ST_RDONLY for p in SETTINGS if os.path.exists(p))


def _make_own_mounts(writable: Iterable[str]) -> None:
    """Where root may mount: nothing but ``writable`` can be changed, and devices are only in /dev.

    Landlock neither governs modes and owners nor tells devices from files. Copies of what is
    writable keep what was read-only in it.
    """
    # Not private: what the machine unmounts would stay in use here.
    if libc.unshare(NEW_MOUNTS) or libc.mount(b"none", b"/", None, RECURSIVE | SLAVE, None):
        return
    copies = [(path, _copied(path)) for path in ("/dev", *writable)]
    if copies[0][1] >= 0 and not _restrict(b"/", READ_ONLY | NO_DEVICES):
        for path, copy in copies:
            if copy >= 0:
                _attach(copy, path)
            if path == "/dev":
                _restrict(b"/dev", READ_ONLY)
    # A new one: a rule for the machine's would cover its other mounts, also those made later.
    if not libc.mount(b"proc", b"/proc", b"proc", NO_SETUID | NO_DEVICES | NO_PROGRAMS, None):
        _close_settings()


def _close_settings() -> None:
    for entry in os.scandir("/proc"):
        other = not entry.name.isdigit() and not entry.is_symlink()
        if other and (entry.is_dir() or entry.stat().st_mode & ANY_WRITE):
            path = os.fsencode(entry.path)
            if not libc.mount(path, path, None, BIND, None):
                _restrict(path, READ_ONLY)


def _restrict(path: bytes, attributes: int) -> int:
    """Give ``attributes`` to all mounts from ``path`` on; return 0, or -1 where that fails."""
    given = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)  # `struct mount_attr`
    return int(libc.syscall(SET_ATTRIBUTES, HERE, path, WHOLE_TREE, given, ctypes.c_size_t(32)))


def _copied(path: str) -> int:
    """Return a copy of the mounts from ``path`` on, open until the exec; or -1."""
    with contextlib.suppress(OSError):
        return int(libc.syscall(COPY_MOUNTS, _opened(path), b"", COPY | WHOLE_TREE | os.O_CLOEXEC))
    return -1


def _attach(copy: int, path: str) -> None:
    if libc.syscall(ATTACH_MOUNTS, copy, b"", _opened(path), b"", ATTACHED):
        raise OSError(ctypes.get_errno(), f"{path} cannot be mounted as it is")


def _drop_capabilities() -> None:
    """Keep no other than `KEPT_CAPABILITIES`, also after the exec.

    The bounding set does not bind inheritable and ambient ones, and may be root's to keep. Without
    inheritable ones there are no ambient ones, and no_new_privs keeps an exec to what is permitted.
    """
    for capability in range(LAST_CAPABILITY + 1):
        if capability not in KEPT_CAPABILITIES:
            libc.prctl(DROP_CAPABILITY, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: up to 31, then from 32 on
    kept = sum(1 << capability for capability in KEPT_CAPABILITIES)
    failed = libc.capget(header, sets)
    sets[:] = [sets[0] & kept, sets[1] & kept, 0, 0, 0, 0]
    if failed or libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capabilities cannot be dropped")


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        place = _opened(path)
    except OSError:  # it is gone, or this user may not look there
        return
    try:
        kind = os.fstat(place).st_mode
        if stat.S_ISLNK(kind):
            return
        if not stat.S_ISDIR(kind):
            rights &= FILE_RIGHTS
        rule = PathRule(allowed=rights, parent=place)
        _checked(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(place)


def _opened(path: str) -> int:
    """Open ``path`` as a place; no link is followed, so one at its end is opened itself."""
    place = os.open("/", os.O_PATH)
    for name in filter(None, path.split("/")):
        outer = place
        try:
            place = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=outer)
        finally:
            os.close(outer)
    return place


def _checked(number: int, *arguments: object) -> int:
    result = int(libc.syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"Landlock: {os.strerror(code)}")
    return result


def _make_device_files() -> None:
    """Let NVIDIA's tool make missing device files: it is setuid, which ends here."""
    tool = shutil.which("nvidia-modprobe")
    if tool and os.path.exists(DRIVER) and not os.path.exists(DEVICE_FILE):
        subprocess.run([tool, "-u", "-c=0"], check=False, stdin=subprocess.DEVNULL)


def main(arguments: list[str]) -> None:
    """Confine this process and replace it."""
    rules = json.loads(os.environ.pop(VARIABLE))
    _make_device_files()
    confine(**rules)
    os.execvp(arguments[0], arguments)  # noqa: S606 - no shell is meant


if __name__ == "__main__":
    main(sys.argv[1:])
