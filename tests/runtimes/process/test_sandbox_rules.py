"""What a confined engine is started with."""

from __future__ import annotations

import json
import os
import pwd
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from modelium.errors import FailureKind, LoadFailed
from runtimes.process import confine, sandbox
from runtimes.process.sandbox import SECRETS, SYSTEM_SECRETS, Sandbox
from runtimes.process.socket_folder import socket_folder
from tests.fakes.landlock import Landlock

PROC = "/proc" if os.getuid() else "/proc/self"


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Landlock:
    linux = Landlock(7)
    monkeypatch.setattr(confine, "libc", linux)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return linux


@pytest.fixture(autouse=True)
def accounts(monkeypatch: pytest.MonkeyPatch) -> list[pwd.struct_passwd]:
    """The machine's; none at first."""
    found: list[pwd.struct_passwd] = []
    monkeypatch.setattr(pwd, "getpwall", lambda: found)
    return found


@pytest.fixture
def command(tmp_path: Path) -> Path:
    found = tmp_path / "bin" / "vllm"
    found.parent.mkdir()
    found.touch(mode=0o755)
    return found


def rules(variables: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(variables["MODELIUM_SANDBOX"])
    return found


def test_an_engine_gets_what_it_needs_and_no_more(tmp_path: Path, command: Path) -> None:
    work, model = tmp_path / "work", tmp_path / "model"
    temporary = socket_folder(work / "tmp", longest_name=60)
    model.mkdir()
    given = {
        "HOME": str(tmp_path / "home"),
        "HF_HOME": str(tmp_path / "hf" / "home"),
        "TRITON_CACHE_DIR": "",
        "TMPDIR": "/tmp",
        "A": "1",
    }
    confined = Sandbox(
        mode="auto",
        hidden=(Path("/state"),),
        shown=(Path("/state/repository"),),
        writable=(Path("/ipc"),),
    )
    words = (
        "serve",
        str(model),
        f"--template={command}",
        "--at=/nowhere",
        "/nowhere",
        "--flag",
        ".",
    )
    argv, variables, directory = confined.wrapped(
        (str(command), *words),
        given,
        work=work,
        shown=(Path("/shown"),),
        writable=(Path("/own"),),
        connects=False,
    )
    own = [sys.executable, "-I", "-S", str(Path(confine.__file__)), str(command)]
    assert argv == (*own, *words)
    assert directory == work
    found = rules(variables)
    del variables["MODELIUM_SANDBOX"]
    assert variables == {
        **given,
        "TMPDIR": str(temporary),
        "HF_MODULES_CACHE": str(work / "modules"),
    }
    homes = [str(tmp_path / "home" / name) for name in SECRETS]
    cache = tmp_path / "hf" / "home"
    assert found == {
        "hidden": ["/state", *map(str, SYSTEM_SECRETS), *homes],
        "shown": ["/state/repository", "/shown", str(command), str(model)],
        "writable": [*map(str, (cache, "/ipc", "/own", "/dev/shm", work, temporary)), PROC],
        "connects": False,
    }
    assert cache.is_dir()
    assert not (work / "modules").exists(), "what lies in a writable folder is the engine's to make"
    for folder in (work, temporary):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(("user", "sees"), [(0, True), (1000, False)])
def test_root_is_kept_from_the_credentials_of_other_accounts(
    tmp_path: Path,
    command: Path,
    accounts: list[pwd.struct_passwd],
    monkeypatch: pytest.MonkeyPatch,
    user: int,
    *,
    sees: bool,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    homes = [tmp_path / name for name in ("ann", "bob", "ann", "nobody")]
    accounts.extend(
        pwd.struct_passwd((home.name, "x", 1, 1, "", str(home), "/bin/sh")) for home in homes
    )
    secrets = [tmp_path / "ann/.aws", tmp_path / "ann/.ssh", tmp_path / "bob/.ssh"]
    for folder in (*secrets, tmp_path / "ann/models"):
        folder.mkdir(parents=True)
    _, variables, _ = Sandbox(mode="auto", hidden=()).wrapped(
        (str(command),), {"HOME": str(tmp_path / "home")}, work=tmp_path / "work"
    )
    own = [str(tmp_path / "home" / name) for name in SECRETS]
    others = sorted(map(str, secrets)) if sees else []
    hidden = rules(variables)["hidden"]
    assert hidden[: -len(others) or None] == [*map(str, SYSTEM_SECRETS), *own]
    assert sorted(hidden[len(hidden) - len(others) :]) == others


def test_caches_that_the_operator_chose_stay_and_exist_already(
    tmp_path: Path, command: Path
) -> None:
    given = {"HF_MODULES_CACHE": str(tmp_path), "HOME": ""}
    _, variables, _ = Sandbox(mode="auto", hidden=()).wrapped(
        (str(command),), given, work=tmp_path / "work"
    )
    assert variables["HF_MODULES_CACHE"] == str(tmp_path)
    assert str(Path.home() / ".ssh") in rules(variables)["hidden"]
    assert rules(variables)["connects"] is True
    assert given == {"HF_MODULES_CACHE": str(tmp_path), "HOME": ""}


def test_temporary_files_of_an_earlier_start_are_removed_and_links_not_followed(
    tmp_path: Path, command: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "kept").touch()
    temporary = socket_folder(tmp_path / "work/tmp", longest_name=60)
    (temporary / "folder").mkdir(parents=True)
    (temporary / "folder/file").touch()
    (temporary / "file").touch()
    (temporary / "way").symlink_to(other)
    Sandbox(mode="auto", hidden=()).wrapped((str(command),), {}, work=tmp_path / "work")
    assert list(temporary.iterdir()) == []
    assert (other / "kept").exists()


def test_a_command_is_looked_for_where_the_engine_would(tmp_path: Path, command: Path) -> None:
    confined = Sandbox(mode="auto", hidden=())
    path = {"PATH": str(command.parent)}
    argv, variables, _ = confined.wrapped(("vllm", "/x"), path, work=tmp_path / "work")
    assert argv[-2:] == ("vllm", "/x")
    assert rules(variables)["shown"] == [str(command)]
    with pytest.raises(FileNotFoundError) as failure:
        confined.wrapped(("vllm",), {"PATH": "/nowhere"}, work=tmp_path / "none")
    assert (failure.value.errno, failure.value.filename) == (2, "vllm")
    assert failure.value.strerror == os.strerror(2)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("mode", "abi", "confined"),
    [
        *(("auto", 1, True), ("auto", 0, False), ("required", 1, True)),
        *(("off", 7, False), ("off", 0, False)),
    ],
)
def test_engines_are_confined_where_the_mode_and_the_kernel_let_them(
    tmp_path: Path,
    command: Path,
    kernel: Landlock,
    mode: sandbox.Mode,
    abi: int,
    *,
    confined: bool,
) -> None:
    kernel.abi = abi
    argv, variables, directory = Sandbox(mode=mode, hidden=()).wrapped(
        (str(command),), {"A": "1"}, work=tmp_path / "work"
    )
    assert (argv == (str(command),)) is not confined
    assert (variables == {"A": "1"}) is not confined
    assert (directory is None) is not confined
    assert (tmp_path / "work").exists() is confined


def test_a_machine_that_cannot_confine_says_why(
    tmp_path: Path, kernel: Landlock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sandbox.unavailable() == ""
    kernel.abi = 0
    missing = "the kernel has no Landlock (Linux 5.13 or later, with `landlock` in its `lsm=`)"
    assert sandbox.unavailable() == missing
    with pytest.raises(LoadFailed) as failure:
        Sandbox(mode="required", hidden=()).wrapped(("true",), {}, work=tmp_path / "work")
    assert failure.value.kind == FailureKind.ENVIRONMENT
    assert str(failure.value) == (
        f"sandbox.mode is `required`, but {missing}; set it to `auto`, or update the host"
    )
    kernel.abi = 7
    monkeypatch.setattr(sys, "platform", "darwin")
    assert sandbox.unavailable() == "only Linux has Landlock"
