"""Devices, mounts and capabilities of the machine: what a real confined process has of them.

A service of root has the most to lose, so these tests try more as root that may mount.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from runtimes.process import confine
from runtimes.process.sandbox import Sandbox

pytestmark = pytest.mark.skipif(not confine.abi(), reason="the kernel has no Landlock")

TRY = """
import json, os, sys
def tried(path, flags):
    try:
        os.close(os.open(path, flags | os.O_NOCTTY))
        return "opened"
    except OSError as exc:  # root finds a read-only file system
        return "PermissionError" if exc.errno == 30 else type(exc).__name__
def status():
    with open("/proc/self/status") as lines:
        pairs = [line.split() for line in lines]
    return {pair[0]: pair[1] for pair in pairs if pair[0].startswith(("Cap", "NoNew"))}
paths = open(os.path.dirname(sys.argv[0]) + "/paths").read().splitlines()
for path in paths if sys.argv[1] else ():
    try:
        os.chmod(path, int(sys.argv[1], 8))
    except OSError:
        pass
opened = {path: [tried(path, os.O_RDONLY), tried(path, os.O_WRONLY)] for path in paths}
print(json.dumps([opened, status(), os.listdir("/dev")]))
"""
ROOT = os.getuid() == 0
MOUNTS = ROOT and not subprocess.run(("unshare", "-m", "true"), check=False).returncode
KEPT = 1 << 1 | 1 << 14
OPENED, CLOSED = ["opened"] * 2, ["PermissionError"] * 2


def run(
    work: Path,
    *paths: Path | str,
    before: Sequence[str] = (),
    writable: tuple[Path, ...] = (),
    mode: str = "",
) -> tuple[dict[str, list[str]], dict[str, str], list[str]]:
    """What a confined process that ``before`` starts finds: opened paths, its status, /dev.

    Before it opens ``paths``, it sets their ``mode``.
    """
    program = work / "try.py"
    program.write_text(TRY)
    (work / "paths").write_text("".join(f"{path}\n" for path in paths))  # words are readable
    words = ("/usr/bin/env", "python3", "-I", str(program), mode)
    argv, variables, folder = Sandbox(mode="required", hidden=()).wrapped(
        words, {"PATH": os.environ["PATH"]}, work=work / "own", writable=writable
    )
    done = subprocess.run(
        (*before, *argv), env=variables, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    opened, status, devices = json.loads(done.stdout)
    return opened, status, devices


def test_an_engine_opens_what_it_computes_with_and_no_terminal_of_its_user(tmp_path: Path) -> None:
    controller, terminal = os.openpty()
    try:
        name = os.ttyname(terminal)
        useful = ("/dev/null", "/dev/zero", "/dev/urandom")
        opened, _, devices = run(tmp_path, *useful, name, "/dev/ptmx")
        assert opened == {**dict.fromkeys(useful, OPENED), name: CLOSED, "/dev/ptmx": CLOSED}
        assert set(devices) >= {"null", "zero", "ptmx"}
        # The operator may say otherwise.
        ours = (Path(name).parent, Path("/dev/ptmx"))
        assert run(tmp_path, name, "/dev/ptmx", writable=ours)[0] == {
            name: OPENED,
            "/dev/ptmx": OPENED,
        }
    finally:
        os.close(controller)
        os.close(terminal)


def test_devices_and_settings_that_are_mounted_elsewhere_are_closed_too(tmp_path: Path) -> None:
    """Who may mount nothing has no such places."""
    node, proc, dev = tmp_path / "node", tmp_path / "proc", tmp_path / "dev"
    for folder in (proc, dev):
        folder.mkdir()
    before: tuple[str, ...] = ()
    if MOUNTS:
        os.mknod(node, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
        mounts = f"mount --bind /proc {proc} && mount --bind /dev {dev}"
        before = ("unshare", "-m", "/bin/sh", "-c", f'{mounts} && exec "$0" "$@"')
    pattern = proc / "sys/kernel/core_pattern"
    found, _, _ = run(tmp_path, node, pattern, dev / "ptmx", before=before)
    if MOUNTS:
        assert found == {
            str(node): CLOSED,
            str(pattern): ["opened", "PermissionError"],
            str(dev / "ptmx"): CLOSED,
        }
    assert "opened" not in {outcome for _, outcome in found.values()}


def test_an_engine_of_root_changes_no_mode_outside_of_its_own_folders(tmp_path: Path) -> None:
    """Landlock does not govern modes; others than root can change those of their own files."""
    outside, own = tmp_path / "outside", tmp_path / "cache"
    own.mkdir()
    for file in (outside, own / "file"):
        file.touch(mode=0o600)
    run(tmp_path, outside, own / "file", writable=(own,), mode="0666")
    assert stat.S_IMODE(outside.stat().st_mode) == (0o600 if MOUNTS else 0o666)
    assert stat.S_IMODE((own / "file").stat().st_mode) == 0o666


def test_what_is_mounted_read_only_in_a_writable_folder_stays_so(tmp_path: Path) -> None:
    own = tmp_path / "cache"
    (own / "shared").mkdir(parents=True)
    for file in (own / "file", own / "shared/file"):
        file.touch()
    before: tuple[str, ...] = ()
    if MOUNTS:
        mount = f"mount --bind {own}/shared {own}/shared && mount -o remount,bind,ro {own}/shared"
        before = ("unshare", "-m", "/bin/sh", "-c", f'{mount} && exec "$0" "$@"')
    found, _, _ = run(tmp_path, own / "file", own / "shared/file", before=before, writable=(own,))
    assert found == {
        str(own / "file"): OPENED,
        str(own / "shared/file"): ["opened", "PermissionError"] if MOUNTS else OPENED,
    }


@pytest.mark.parametrize("ambient", [False, True])
def test_an_engine_has_no_capabilities_that_it_does_not_need(
    tmp_path: Path, *, ambient: bool
) -> None:
    before: tuple[str, ...] = ()
    if ROOT:
        before = ("setpriv", "--inh-caps=+chown,+kill,+setuid")
        before += ("--ambient-caps=+chown,+kill",) if ambient else ()
    _, status, _ = run(tmp_path, before=before)
    own = re.search(r"CapEff:\t(\w+)", Path("/proc/self/status").read_text())
    assert own
    found = {name: int(value, 16) for name, value in status.items() if name.startswith("Cap")}
    assert (found["CapInh:"], found["CapAmb:"], status["NoNewPrivs:"]) == (0, 0, "1")
    assert found["CapPrm:"] == found["CapEff:"] == KEPT & int(own[1], 16)
