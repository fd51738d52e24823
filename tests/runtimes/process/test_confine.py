"""What a confined process asks of the kernel; `test_sandbox` shows what real ones can still do."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from runtimes.process import confine
from tests.fakes.landlock import Landlock

READ = 0b1101
"""Execute, read files, list folders."""
KEPT = {1, 14}
USE = 0b1110
"""Write and read files, list folders."""
CONFINED = ["few capabilities", "no new privileges", "restricted"]

Kernel = Callable[..., Landlock]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    def build(abi: int, *, refusing: str = "") -> Landlock:
        made = Landlock(abi, refusing=refusing)
        monkeypatch.setattr(confine, "libc", made)
        return made

    return build


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder ``state`` with something to hide, and folders beside it."""
    for file in (
        *("state/db", "state/journal", "state/repository/m/weights", "state/work/m/tmp"),
        *("sta/x", "state2/x", "notes", "z/x"),
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("x")
    (tmp_path / "a-way").symlink_to(tmp_path / "state")
    (tmp_path / "z-way").symlink_to(tmp_path / "z")
    return tmp_path


def below(folder: Path, found: list[str]) -> set[str]:
    return {path[len(f"{folder}/") :] for path in found if path.startswith(f"{folder}/")}


BESIDE = {"sta", "state2", "z"}


@pytest.mark.parametrize(
    ("hidden", "shown", "expected"),
    [
        (["state"], [], BESIDE),
        (["state"], ["state/repository"], {*BESIDE, "state/repository"}),
        (
            ["state/db", "state/work/m"],
            [],
            {*BESIDE, "state/repository"},
        ),
        (["a-way"], [], BESIDE),
        (["notes/none"], [], {"sta", "state", "state2", "z"}),
        (["nowhere/at/all"], [], {*BESIDE, "state"}),
    ],
)
def test_all_but_the_hidden_is_given_in_whole_trees(
    tree: Path, hidden: list[str], shown: list[str], expected: set[str]
) -> None:
    def at(names: list[str]) -> list[str]:
        return [str(tree / name) for name in names]

    found = list(confine.readable(at(hidden), at(shown)))
    assert below(tree, found) == expected
    roots = {entry.path for entry in os.scandir("/") if not entry.is_symlink()}
    inside = {f"/{tree.parts[1]}", "/dev"}
    assert {path for path in found if path.count("/") == 1} == roots - inside
    assert not below(Path("/dev"), found)


def test_a_link_is_never_opened_by_itself(tree: Path) -> None:
    found = confine.readable([str(tree / "state/db")], [])
    assert not {path for path in found if path.endswith("-way")}


@pytest.mark.parametrize(
    ("abi", "connects", "changes", "network", "scopes", "size"),
    [
        (1, False, 0x1FF2, 0, 0, 8),
        (2, False, 0x3FF2, 0, 0, 8),
        (3, False, 0x7FF2, 0, 0, 8),
        (4, False, 0x7FF2, 2, 0, 16),
        (4, True, 0x7FF2, 0, 0, 16),
        (5, False, 0x7FF2, 2, 0, 16),
        (6, True, 0x7FF2, 0, 3, 24),
        (7, False, 0x7FF2, 2, 3, 24),
    ],
)
def test_each_kernel_is_asked_for_all_that_it_knows(
    kernel: Kernel,
    tree: Path,
    abi: int,
    changes: int,
    network: int,
    scopes: int,
    size: int,
    *,
    connects: bool,
) -> None:
    linux = kernel(abi)
    assert confine.abi() == abi
    confine.confine(
        hidden=[str(tree / "state")],
        shown=[str(tree / "state/repository")],
        writable=[str(tree / "state/work"), str(tree / "state/journal"), str(tree / "gone")],
        connects=connects,
    )
    assert linux.handled == (READ | changes, network, scopes, size)
    allowed = {
        Path(p).relative_to(tree).as_posix(): r
        for p, r in linux.allowed.items()
        if p.startswith(f"{tree}/")
    }
    of_files = 0b0111 | (0x4000 if abi >= 3 else 0)
    assert allowed == {
        **dict.fromkeys(("sta", "state2", "z", "state/repository"), READ),
        "state/work": READ | changes,
        "state/journal": of_files,
    }
    assert linux.allowed["/proc"] == READ
    assert {path: r for path, r in linux.allowed.items() if path.startswith("/dev")} == {
        "/dev": 0b1000,
        **{path: USE & confine.FILE_RIGHTS for path in confine.devices()},
    }
    assert linux.order == CONFINED
    assert linux.dropped == [number for number in range(64) if number not in KEPT]
    assert linux.capabilities == [1 << 1 | 1 << 14, 1 << 1 | 1 << 14, 0, 0, 0, 0]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(linux.descriptor)


def test_engines_get_the_devices_that_they_use_and_no_disks_or_terminals(tmp_path: Path) -> None:
    useful = {
        *("null", "zero", "full", "random", "urandom", "tty", "kfd", "dri", "dxg", "infiniband"),
        *("gdrdrv", "nvidia0", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"),
        *("nvidia-caps", "nvidia-caps-imex-channels"),
    }
    for name in (*useful, "sda", "mem", "kmsg", "kvm", "console", "tty1", "pts", "ptmx", "dm-0"):
        (tmp_path / name).touch()
    assert {Path(path).name for path in confine.devices(str(tmp_path))} == useful


SETTINGS = {f"/proc/{name}" for name in ("sys", "irq", "bus", "fs", "sysrq-trigger")}
CLOSED = {name for name in SETTINGS if Path(name).exists()}
COPIES = ["slave", "copy /dev", "copy /usr", "copy /etc/passwd"]
ALL_MOUNTS = [*COPIES, "/ +5", "/dev", "/dev +1", "/usr", "/etc/passwd", "proc"]
"""Where /usr and a file are writable: flag 1 is for read-only, 4 for no devices."""


@pytest.mark.parametrize(
    ("mounted", "refusing", "place", "closed", "mounts"),
    [
        ("read-only", "mounts", "/proc", set(), []),
        ("writable", "", "/proc", CLOSED, ALL_MOUNTS),
        ("writable", "mounts", "/proc/1", set(), []),
        ("writable", "slave", "/proc/1", set(), []),
        ("writable", "proc", "/proc/1", set(), ALL_MOUNTS[:-1]),
        ("writable", "copy /dev", "/proc", CLOSED, ["slave", *COPIES[2:], "proc"]),
        ("writable", "/ +5", "/proc", CLOSED, [*COPIES, "proc"]),
        (
            *("writable", "copy /usr", "/proc", CLOSED),
            [n for n in ALL_MOUNTS if not n.endswith("/usr")],
        ),
        ("elsewhere", "mounts", "/proc/1", set(), []),
    ],
)
def test_children_may_write_their_entries_where_the_kernels_settings_are_read_only(
    kernel: Kernel,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    mounted: str,
    refusing: str,
    place: str,
    closed: set[str],
    mounts: list[str],
) -> None:
    linux = kernel(7, refusing=refusing)
    true = os.statvfs("/proc")

    def told(path: str | bytes) -> os.statvfs_result:
        ro = mounted != "writable" or os.fsdecode(path) in linux.read_only
        flags = true.f_flag & ~1 | ro
        return os.statvfs_result((*true[:8], flags, *true[9:]))

    device = os.stat("/proc").st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    lines = [
        f"22 27 {number} / /proc rw - proc proc rw",
        f"23 22 {number} /sys /chroot/proc/sys rw - proc proc rw",
        "24 27 9999:0 / /chroot/other rw - proc proc rw",
    ]
    if mounted == "elsewhere":
        lines.append(f"25 27 {number} / /chroot/proc rw - proc proc rw")
    (tmp_path / "mounts").write_text("".join(f"{line}\n" for line in lines))
    monkeypatch.setattr(confine, "MOUNTS", str(tmp_path / "mounts"))
    monkeypatch.setattr(os, "statvfs", told)
    writable = iter(["/usr", "/proc/self", "/etc/passwd", "/nowhere/at/all"])
    confine.confine(hidden=[], shown=[], writable=writable, connects=True)
    expected = place if place == "/proc" else os.path.realpath("/proc/self")
    changed = [
        path
        for path, rights in linux.allowed.items()
        if rights & 0b10 and not path.startswith("/dev/")
    ]
    assert sorted(changed) == sorted(["/usr", "/etc/passwd", expected])
    assert linux.read_only & SETTINGS == closed
    assert not {path for path in linux.read_only if path.split("/")[2].isdigit()}
    assert linux.mounted == mounts


@pytest.mark.parametrize("refusing", ["/dev", "/usr"])
def test_what_an_engine_needs_but_cannot_have_is_an_error(kernel: Kernel, refusing: str) -> None:
    linux = kernel(7, refusing=refusing)
    said = f"{refusing} cannot be mounted as it is"
    with pytest.raises(OSError, match=said) as failure:
        confine.confine(hidden=[], shown=[], writable=["/usr", "/proc/self"], connects=True)
    assert failure.value.errno == errno.EPERM
    assert linux.order == ["own mounts"]


def confined(folder: Path) -> None:
    confine.confine(hidden=[], shown=[], writable=[str(folder)], connects=True)


def test_no_descriptor_of_a_path_stays_open(kernel: Kernel, tmp_path: Path) -> None:
    kernel(7)
    before = len(os.listdir("/proc/self/fd"))
    confined(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("abi", "refusing", "code", "text"),
    [
        (0, "", errno.EOPNOTSUPP, f"Landlock: {os.strerror(errno.EOPNOTSUPP)}"),
        (7, "rules", errno.EINVAL, f"Landlock: {os.strerror(errno.EINVAL)}"),
        (7, "privileges", errno.EINVAL, "no_new_privs is refused"),
        (7, "reading", errno.EINVAL, "capabilities cannot be dropped"),
        (7, "capabilities", errno.EPERM, "capabilities cannot be dropped"),
    ],
)
def test_what_the_kernel_refuses_is_raised(
    kernel: Kernel, tmp_path: Path, abi: int, refusing: str, code: int, text: str
) -> None:
    linux = kernel(abi, refusing=refusing)
    with pytest.raises(OSError, match=re.escape(text)) as failure:
        confined(tmp_path)
    assert failure.value.errno == code
    assert "restricted" not in linux.order


def test_a_kernel_without_landlock_has_version_0(kernel: Kernel) -> None:
    kernel(0)
    assert confine.abi() == 0


def test_the_program_starts_confined_and_without_the_rules(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    linux = kernel(7)
    rules = {"hidden": [], "shown": [], "writable": [str(tmp_path)], "connects": False}
    monkeypatch.setenv("MODELIUM_SANDBOX", json.dumps(rules))
    started: list[tuple[str, list[str]]] = []

    def execvp(file: str, arguments: list[str]) -> None:
        assert linux.order == CONFINED
        assert "MODELIUM_SANDBOX" not in os.environ
        started.append((file, arguments))

    monkeypatch.setattr(os, "execvp", execvp)
    confine.main(["vllm", "serve", "/m"])
    assert started == [("vllm", ["vllm", "serve", "/m"])]
    assert linux.allowed[str(tmp_path)] == READ | 0x7FF2


@pytest.mark.parametrize(
    ("tool", "driver", "device", "calls"),
    [
        (True, True, False, ["-u -c=0"]),
        (True, True, True, []),
        (True, False, False, []),
        (False, True, False, []),
    ],
)
def test_missing_device_files_are_made_before(
    kernel: Kernel,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    calls: list[str],
    *,
    tool: bool,
    driver: bool,
    device: bool,
) -> None:
    linux = kernel(7)
    if tool:
        command = tmp_path / "nvidia-modprobe"
        command.write_text(f'#!/bin/sh\ncat\necho "$@" >> {tmp_path}/calls\nexit 1\n')
        command.chmod(0o755)
    for name, there in (("DRIVER", driver), ("DEVICE_FILE", device)):
        if there:
            (tmp_path / name).touch()
        monkeypatch.setattr(confine, name, str(tmp_path / name))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    rules = {"hidden": [], "shown": [], "writable": [], "connects": True}
    monkeypatch.setenv("MODELIUM_SANDBOX", json.dumps(rules))
    monkeypatch.setattr(os, "execvp", lambda *_: None)
    confine.main(["vllm"])
    made = tmp_path / "calls"
    assert (made.read_text().splitlines() if made.exists() else []) == calls
    assert linux.order == CONFINED
