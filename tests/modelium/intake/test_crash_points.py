"""A drop is killed at each step of its way, and a restart finds it once and whole."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from modelium.config import Orchestration
from modelium.errors import DropRejected
from modelium.intake.repository import ModelRepository
from tests.modelium.analysis.files import llama_folder

CALLS = ("rename", "fsync", "mkdir", "unlink", "rmdir", "open", "write", "copy_file_range")
"""Of `os`, each of which may be the last one that a killed process makes."""

FILES = {"config.json", "model.safetensors"}


class Killed(BaseException):
    """In place of SIGKILL: nothing of the process runs any more."""


class Killer:
    """Lets the first ``after`` calls of `os` pass, and kills at the next one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path, *, apart: bool) -> None:
        self._patch, self._root, self._apart = monkeypatch, root, apart

    def at(self, after: int, run: Callable[[], object]) -> bool:
        """Return whether ``run`` was killed."""
        left = [after]
        with self._patch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, self._counting(name, getattr(os, name), left))
            try:
                run()
            except Killed:
                return True
        return False

    def _counting(
        self, name: str, real: Callable[..., object], left: list[int]
    ) -> Callable[..., object]:
        def call(*args: object, **given: object) -> object:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            if name == "fsync":
                return None  # a process that is killed loses nothing that it has written
            if name == "rename" and self._apart and not given:
                tops = {Path(str(p)).relative_to(self._root).parts[0] for p in args}
                if len(tops) > 1:
                    raise OSError(18, "Invalid cross-device link")
            return real(*args, **given)

        return call


def opened(root: Path) -> ModelRepository:
    return ModelRepository(
        config=Orchestration(
            model_repository=root / "repository",
            incoming_directory=root / "incoming",
            rejected_directory=root / "rejected",
        )
    )


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def folder(root: Path) -> Path:
    return llama_folder(root / "incoming" / "m")


def shared_folder(root: Path) -> Path:
    """One that others may write to."""
    drop = folder(root)
    (drop / "config.json").chmod(0o666)
    return drop


def archive(root: Path) -> Path:
    drop = root / "incoming" / "m.tar"
    with tarfile.open(drop, "w") as packed:
        packed.add(llama_folder(root / "packed" / "m"), arcname="m")
    return drop


def single_file(root: Path) -> Path:
    drop = root / "incoming" / "m.gguf"
    drop.write_bytes(b"GGUF" + bytes(100))
    return drop


REFUSED = DropRejected("it holds pickles", reason="pickle")

KINDS = [folder, shared_folder, archive, single_file]


def whole(at: Path) -> bool:
    """Whether ``at`` is the drop as it came, or as it is staged."""
    if at.is_dir():
        return files(at) in (FILES, {"m.gguf"})
    return at.stat().st_size == 104 or tarfile.is_tarfile(at)


@pytest.mark.parametrize("apart", [False, True], ids=["one file system", "several"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["stage", "publish", "reject", "discard", "give_back"])
def test_a_kill_at_any_step_loses_doubles_and_halves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Callable[[Path], Path],
    apart: bool,
    end: str,
) -> None:
    killed, after = True, 0
    while killed:
        root = tmp_path / str(after)
        repository = opened(root)
        killer, drop = Killer(monkeypatch, root, apart=apart), kind(root)
        if end == "stage":
            killed = killer.at(after, partial(repository.stage, drop, name=None))
        else:
            staged = repository.stage(drop, name=None)
            run = {
                "publish": partial(repository.publish, staged, version=1),
                "reject": partial(repository.reject, staged, REFUSED, digest="", asked={}),
                "discard": partial(repository.discard, staged),
                "give_back": partial(repository.give_back, staged),
            }
            killed = killer.at(after, run[end])
        opened(root).recover()
        dropped = list(repository.incoming.iterdir())
        rejected = [entry for entry, _reason in repository.rejected_drops()]
        published = [p for p in repository.published.iterdir() if not p.name.startswith(".")]
        kept = [*dropped, *published, *(next(e.glob("m*")) for e in rejected)]
        assert all(whole(entry) for entry in kept), (after, kept)
        assert list(repository.staging.iterdir()) == [], after
        assert not published or files(published[0]) in (FILES, {"m.gguf"}), after
        if end == "discard":
            assert len(kept) <= 1, (after, kept)
        elif published and dropped:  # the same content again: ingest finds it unchanged
            assert kind is archive
        else:
            assert len(kept) == 1, (after, kept)
        after += 1
    assert after > 3


def test_what_others_may_write_to_is_copied(tmp_path: Path) -> None:
    repository = opened(tmp_path)
    drop = shared_folder(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    os.link(drop / "model.safetensors", tmp_path / "elsewhere" / "another.name")
    with (drop / "config.json").open("r+b") as theirs:
        staged = repository.stage(drop, name=None)
        before = (staged.folder / "config.json").read_bytes()
        theirs.write(b"changed after the check")
        theirs.flush()
        assert (staged.folder / "config.json").read_bytes() == before
    (tmp_path / "elsewhere" / "another.name").write_bytes(b"changed as well")
    assert (staged.folder / "model.safetensors").stat().st_size > 20
    for entry in (staged.folder, *staged.folder.iterdir()):
        info = entry.stat()
        assert info.st_uid == os.geteuid()
        assert not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def test_what_nobody_else_may_write_to_is_not_copied(tmp_path: Path) -> None:
    repository = opened(tmp_path)
    drop = folder(tmp_path)
    for entry in (drop, *drop.iterdir()):
        entry.chmod(entry.stat().st_mode & ~0o022)
    numbers = {entry.name: entry.stat().st_ino for entry in drop.iterdir()}
    staged = repository.stage(drop, name=None)
    assert {entry.name: entry.stat().st_ino for entry in staged.folder.iterdir()} == numbers
