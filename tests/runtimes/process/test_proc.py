from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from modelium.devices import processes
from runtimes.process import proc
from runtimes.process.proc import ProcessEntry

NOBODY = 2**22 + 1
"""Above the largest pid."""


@pytest.fixture(scope="module")
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has worked and is stopped."""
    code = "import os; [os.stat('/') for _ in range(20000)]; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"A": "1", "AB": "x=y", "EMPTY": "", "C": "caf\xe9"},
        start_new_session=True,
    ) as process:
        assert process.stdout
        process.stdout.readline()
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        yield process
        process.kill()


@pytest.fixture
def zombie() -> Iterator[int]:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        yield process.pid


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for /proc."""
    monkeypatch.setattr(proc, "PROC", tmp_path)
    (tmp_path / "net").mkdir()
    return tmp_path


def test_a_process_is_read_as_the_kernel_tells_it(child: subprocess.Popen[bytes]) -> None:
    found = proc.entry(child.pid)
    times = psutil.Process(child.pid).cpu_times()
    assert found == ProcessEntry(
        pid=child.pid,
        parent=os.getpid(),
        group=child.pid,
        session=child.pid,
        state="T",
        started=processes.start_time(child.pid) or -1,
        cpu_s=times.user + times.system,
    )
    own = proc.entry(os.getpid())
    assert own is not None
    assert (own.parent, own.group, own.session) == (os.getppid(), os.getpgrp(), os.getsid(0))
    assert proc.entry(NOBODY) is None


def test_the_fields_of_a_process_are_those_of_proc_5(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = ["R", *map(str, range(4, 53))]  # each one is its number there
    monkeypatch.setattr(processes, "stat_fields", lambda _: fields)
    assert proc.entry(9) == ProcessEntry(
        pid=9,
        state="R",
        parent=4,
        group=5,
        session=6,
        cpu_s=(14 + 15) / os.sysconf("SC_CLK_TCK"),
        started=22,
    )


def test_a_zombie_is_there_and_not_alive(zombie: int) -> None:
    found = proc.entry(zombie)
    assert found is not None and (found.state, found.alive) == ("Z", False)
    assert not proc.alive(zombie)
    assert proc.alive_since(zombie) is None
    own = os.getpid()
    assert proc.alive(own) and proc.alive_since(own) == processes.start_time(own)
    assert not proc.alive(NOBODY) and proc.alive_since(NOBODY) is None
    assert [replace(found, state=state).alive for state in "RSDTtIZX"] == [True] * 6 + [False] * 2


def test_all_processes_are_listed_with_zombies(zombie: int) -> None:
    found = proc.snapshot()
    assert {os.getpid(), os.getppid(), zombie} <= found.keys()
    assert found[zombie] == proc.entry(zombie)
    assert all(pid == entry.pid for pid, entry in found.items())


def rows(parents: dict[int, int]) -> dict[int, ProcessEntry]:
    return {
        pid: ProcessEntry(
            pid=pid, parent=parent, group=0, session=0, state="S", started=0, cpu_s=0.0
        )
        for pid, parent in parents.items()
    }


@pytest.mark.parametrize(
    ("roots", "expected"),
    [
        ([2], {2, 3, 4, 5}),
        ([3], {3, 4}),
        ([4, 5], {4, 5}),
        ([2, 3], {2, 3, 4, 5}),
        ([99], set()),
        ([99, 4], {4}),
        ([8], {8, 9}),
        ([], set()),
    ],
)
def test_descendants_are_found_over_generations(roots: list[int], expected: set[int]) -> None:
    table = rows({1: 0, 2: 1, 3: 2, 4: 3, 5: 2, 6: 1, 7: 99, 8: 9, 9: 8})
    assert proc.descendants(table, roots) == expected


def test_variables_of_a_process_are_read_whole(child: subprocess.Popen[bytes]) -> None:
    pid = child.pid
    assert proc.has_variable(pid, "A", "1")
    assert [proc.has_variable(pid, "A", value) for value in ("", "11", "x=y")] == [False] * 3
    assert not proc.has_variable(pid, "B", "x=y")
    assert proc.has_variable(pid, "AB", "x=y")
    assert proc.variables(pid, ["AB", "EMPTY", "C", "NONE"]) == {
        "AB": "x=y",
        "EMPTY": "",
        "C": "caf\xe9",
    }
    assert proc.variables(pid, []) == {}
    assert not proc.has_variable(NOBODY, "A", "1")
    assert proc.variables(NOBODY, ["A"]) == {}


def test_variables_that_are_no_text_or_have_no_value_harm_nothing(table: Path) -> None:
    (table / "7").mkdir()
    (table / "7/environ").write_bytes(b"A=\xff\0B\0C=3\0")
    assert proc.variables(7, ["A", "B", "C"]) == {"A": "\ufffd", "C": "3"}


def test_a_process_has_the_users_that_it_is_real_effective_and_saved(table: Path) -> None:
    (table / "7").mkdir()
    (table / "7/status").write_text("Name:\tx\nUid:\t1000\t0\t1001\t1000\nGid:\t5\t5\t5\t5\n")
    assert proc.users(7) == {1000, 0, 1001}
    assert proc.users(8) == frozenset()


def test_a_command_line_is_read_as_it_is(child: subprocess.Popen[bytes]) -> None:
    words = [*child.args, b""]  # type: ignore[misc]
    expected = [os.fsencode(word) for word in words]
    assert proc.command_line(child.pid).split(b"\0") == expected
    assert proc.command_line(NOBODY) == b""


def test_what_processes_use_is_summed(child: subprocess.Popen[bytes]) -> None:
    pids = [child.pid, NOBODY, child.pid]
    one = proc.entry(child.pid)
    assert one is not None
    assert proc.cpu_s(pids) == 2 * one.cpu_s > 0
    assert proc.bytes_read(pids) == 2 * processes.bytes_read(child.pid) > 0
    assert proc.resident_bytes(pids) == 2 * processes.resident_bytes(child.pid) > 0
    assert proc.cpu_s([]) == proc.bytes_read([]) == proc.resident_bytes([]) == 0


def test_the_boot_is_what_the_kernel_calls_it(table: Path) -> None:
    (table / "sys/kernel/random").mkdir(parents=True)
    (table / "sys/kernel/random/boot_id").write_text("1f-2e\n")
    assert proc.boot_id() == "1f-2e"


def test_listening_sockets_are_attributed_to_their_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        port = ours.getsockname()[1]
        assert proc.listens(port, [os.getppid(), os.getpid()])
        assert not proc.listens(port, [os.getppid()])
        assert proc.listeners(port, [os.getppid(), os.getpid()]) == [os.getpid()]
    assert not proc.listens(port, [os.getpid()])
    assert proc.listeners(port, [os.getpid()]) == []


def row(port: int, state: str, inode: int) -> str:
    return f"   0: 0100007F:{port:04X} 00000000:2000 {state} 0:0 00:0 0  1000        0 {inode} 1\n"


@pytest.mark.parametrize("six", [True, False])
def test_only_listening_sockets_on_the_port_count(table: Path, *, six: bool) -> None:
    title = row(8100, "0A", 99)  # the first line is never a socket
    listed = row(8100, "0A", 11) + row(8101, "0A", 12) + row(8100, "01", 13)
    if six:
        (table / "net/tcp6").write_text(title + listed + row(8100, "0A", 14))
    else:
        (table / "net/tcp").write_text(title + listed)
    for pid, links in enumerate(
        [
            ["socket:[11]"],
            ["socket:[12]"],
            ["socket:[13]"],
            ["pipe:[11]", "socket:[14]"],
            ["socket:[99]"],
        ]
    ):
        folder = table / str(pid) / "fd"
        folder.mkdir(parents=True)
        (folder / "0").touch()  # closed while it is read
        for number, target in enumerate(links, 1):
            (folder / str(number)).symlink_to(target)
        (folder / "9").touch()
    pids = [4, 3, 2, 77, 1, 0]
    assert proc.listeners(8100, pids) == ([3, 0] if six else [0])
    assert [proc.listens(8100, [pid]) for pid in pids] == [False, six, False, False, False, True]
    assert proc.listeners(8101, pids) == [1]
    assert proc.listeners(0x2000, pids) == [], "the other side's"
    assert not proc.listens(99, pids)
