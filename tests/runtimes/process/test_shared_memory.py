"""Regions of shared memory that processes have mapped."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtimes.process.shared_memory import regions, remove_unused


@pytest.fixture
def names() -> Iterator[list[Path]]:
    """Files under /dev/shm that nobody has mapped yet."""
    made = [Path(f"/dev/shm/modelium test {uuid.uuid4()}") for _ in range(3)]
    for path in made:
        path.write_bytes(bytes(4096))
    yield made
    for path in made:
        path.unlink(missing_ok=True)


@contextmanager
def mapped(path: Path) -> Iterator[None]:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        yield


def found(pids: list[int]) -> set[Path]:
    """Return the regions of ``pids`` without those of other tests."""
    folder = Path("/dev/shm")
    return {p for p in regions(pids) if p == folder or p.name.startswith("modelium test")}


def test_the_regions_of_a_process_are_those_that_it_has_mapped_and_that_still_exist(
    names: list[Path],
) -> None:
    first, second, other = names
    own = os.getpid()
    with mapped(first), mapped(second):
        assert found([own]) == {first, second}
        assert found([os.getppid()]) == set()
        assert found([2**22 + 1, own, 2**22 + 2]) == {first, second}
        first.unlink()
        assert found([own]) == {second}
    assert found([own]) == set()
    assert found([]) == set()
    assert other.exists()


def test_only_what_nobody_has_mapped_any_more_is_removed(names: list[Path]) -> None:
    ours, childs, unused = names
    code = f"import mmap; f = open({str(childs)!r}, 'r+b'); m = mmap.mmap(f.fileno(), 0); "
    code += "print('mapped', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout and child.stdout.readline() == b"mapped\n"
        with mapped(ours):
            remove_unused({*names, Path("/dev/shm/modelium-gone")})
        assert [path.exists() for path in names] == [True, True, False]
        assert unused not in regions([child.pid])
        child.communicate()
    remove_unused({ours})
    assert [path.exists() for path in names] == [False, True, False]
    remove_unused(set())
