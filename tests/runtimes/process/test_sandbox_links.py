"""Links that an engine lays for its next start: real processes, confined by the kernel."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelium.errors import Unavailable
from runtimes.process import confine
from runtimes.process.sandbox import Sandbox

pytestmark = [
    pytest.mark.skipif(not confine.abi(), reason="the kernel has no Landlock"),
    pytest.mark.slow,
]

LAY = """
import os, shutil, sys
place, target = sys.argv[1:]
shutil.rmtree(place, ignore_errors=True)
os.symlink(target, place)
"""
REFUSED = re.compile(r"PermissionError|Read-only file system")
WRITE = """
import os, sys, tempfile
tempfile.TemporaryFile().close()
for path in sys.argv[1:]:
    open(path, "w").close()
"""


class Machine:
    """Starts confined engines of one model."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work = root / "work"
        self.outside = root / "outside"
        self.outside.mkdir()
        (self.outside / "kept").touch()
        self.environment = {"HF_HOME": str(root / "hf"), "HF_HUB_CACHE": str(root / "hf/hub")}
        self.writable: tuple[Path, ...] = ()

    def prepare(self, code: str, *arguments: object) -> tuple[list[str], dict[str, str]]:
        argv, variables, _ = Sandbox(mode="required", hidden=()).wrapped(
            (sys.executable, "-c", code, *map(str, arguments)),
            self.environment,
            work=self.work,
            writable=self.writable,
        )
        return list(argv), variables

    def run(self, code: str, *arguments: object) -> str:
        """Return the last line of what an engine says that fails."""
        return self.start(*self.prepare(code, *arguments))

    def start(self, argv: list[str], variables: dict[str, str]) -> str:
        done = subprocess.run(
            argv, env=variables, cwd=self.work, capture_output=True, text=True, check=False
        )
        return (done.stderr.splitlines() or [""])[-1]


@pytest.fixture
def machine() -> Iterator[Machine]:
    # Short: sockets fit into the engine's own folder.
    with tempfile.TemporaryDirectory(dir="/tmp") as root:
        yield Machine(Path(root).resolve())


@pytest.mark.parametrize("place", ["work/modules", "hf/hub", "work/tmp"])
def test_a_link_opens_nothing_at_the_next_start(machine: Machine, place: str) -> None:
    assert machine.run(LAY, machine.root / place, machine.outside) == ""
    assert REFUSED.search(machine.run(WRITE, machine.outside / "new"))
    assert [path.name for path in machine.outside.iterdir()] == ["kept"]
    assert machine.run(WRITE, machine.work / "new") == ""


def test_another_name_of_a_folder_opens_nothing_either(machine: Machine) -> None:
    (machine.root / "way").symlink_to(machine.root / "hf")
    machine.environment["HF_HUB_CACHE"] = str(machine.root / "way/hub")
    assert machine.run(LAY, machine.root / "hf/hub", machine.outside) == ""
    assert REFUSED.search(machine.run(WRITE, machine.outside / "new"))
    assert machine.run(WRITE, machine.root / "hf/new") == ""


def test_a_link_of_the_operator_is_followed(machine: Machine) -> None:
    (machine.root / "hf").symlink_to(machine.outside)
    assert machine.run(WRITE, machine.outside / "new", machine.outside / "hub" / "../new") == (
        f"FileNotFoundError: [Errno 2] No such file or directory: '{machine.outside}/hub/../new'"
    ), "what lies in a cache is the engine's to make"
    assert machine.run(WRITE, machine.outside / "new") == ""


def test_a_link_in_a_folder_that_the_engine_may_change_makes_nothing_readable(
    machine: Machine,
) -> None:
    secret = machine.root / "secret"
    secret.mkdir()
    (secret / "key").touch()
    assert machine.run(LAY, machine.root / "hf/model", secret) == ""
    argv, variables, _ = Sandbox(mode="required", hidden=(secret,)).wrapped(
        (
            sys.executable,
            "-c",
            "import sys; open(sys.argv[1] + '/key')",
            f"{machine.root}/hf/model",
        ),
        machine.environment,
        work=machine.work,
    )
    assert "PermissionError" in machine.start(list(argv), variables)


def test_a_link_that_is_laid_while_an_engine_starts_is_not_followed(machine: Machine) -> None:
    prepared = machine.prepare(WRITE, machine.outside / "new")
    (machine.root / "hf").rmdir()
    (machine.root / "hf").symlink_to(machine.outside)
    assert REFUSED.search(machine.start(*prepared))


def test_the_own_folder_may_lie_in_one_that_engines_change(machine: Machine) -> None:
    machine.writable = (machine.root / "all",)
    machine.work = machine.root / "all/work/m"
    assert machine.run(LAY, machine.work / "tmp", machine.outside) == ""
    assert machine.run(WRITE, machine.work / "new") == ""
    assert [path.name for path in machine.outside.iterdir()] == ["kept"]
    assert machine.run(LAY, machine.root / "all/work", machine.outside) == ""
    with pytest.raises(Unavailable, match="all/work is not a folder of this user"):
        machine.prepare(WRITE)
    assert [path.name for path in machine.outside.iterdir()] == ["kept"]
