"""Engines confined by Landlock: what a real process under the supervisor can still do."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from modelium.clock import SystemClock
from modelium.errors import LoadFailed
from modelium.selftest import cuda_probe
from runtimes.process import confine, sandbox
from runtimes.process.sandbox import Mode, Sandbox
from runtimes.process.supervisor import Command, EngineProcess, Supervisor
from tests.fakes.cuda import cuda_library
from tests.runtimes.conditions import until

__all__ = ["cuda_library"]

pytestmark = pytest.mark.skipif(not confine.abi(), reason="the kernel has no Landlock")

TRY = """
import json, os, socket, sys
def tried(what):
    try:
        return what() or "done"
    except OSError as exc:  # root finds a read-only file system
        return "PermissionError" if exc.errno == 30 else type(exc).__name__
def connect(port):
    socket.create_connection(("127.0.0.1", port), timeout=20).close()
wanted = json.loads(sys.argv[1])
found = {path: tried(lambda: open(path).read() and None) for path in wanted["read"]}
found |= {path: tried(lambda: open(path, "w").close()) for path in wanted["write"]}
found |= {"list": tried(lambda: os.listdir(wanted["list"]) and None)}
found |= {"environ": tried(lambda: open(f"/proc/{wanted['pid']}/environ").read() and None)}
found |= {"signal": tried(lambda: os.kill(wanted["pid"], 0))}
found |= {"connect": tried(lambda: connect(wanted["port"]))}
found |= {"tmp": tried(lambda: open(os.environ.get("TMPDIR", "/tmp") + "/modelium-x", "w").close())}
found |= {"shm": tried(lambda: os.remove(open("/dev/shm/" + os.environ["MODELIUM_ENGINE"], "w").name))}
found |= {"variables": sorted(os.environ), "directory": os.getcwd()}
print(json.dumps(found), flush=True)
"""

Run = Callable[..., Any]
Supervise = Callable[[Mode], Supervisor]


@pytest.fixture
async def supervise(tmp_path: Path) -> AsyncIterator[Supervise]:
    state = tmp_path / "state"
    supervisors: list[Supervisor] = []

    def start(mode: Mode) -> Supervisor:
        supervisor = Supervisor(
            directory=state / "vllm",
            clock=SystemClock(),
            sandbox=Sandbox(mode=mode, hidden=(state,), shown=(state / "repository",)),
        )
        supervisors.append(supervisor)
        return supervisor

    yield start
    for supervisor in supervisors:
        for model, record in supervisor.records().items():
            engine = EngineProcess.from_record(model, record)
            assert engine
            await supervisor.stop(engine, grace_s=0)


@pytest.fixture
def run(supervise: Supervise) -> Run:
    async def start(
        wanted: dict[str, Any],
        *,
        mode: Mode = "required",
        connects: bool = True,
        writable: tuple[Path, ...] = (),
    ) -> dict[str, str]:
        supervisor = supervise(mode)
        argv = (sys.executable, "-c", TRY, json.dumps(wanted))
        command = Command(argv=argv, connects=connects, writable=writable)
        supervisor.start("m", command, {})
        lines: list[str] = []

        def answered() -> bool:
            lines.extend(supervisor.log("m").new_lines())
            return any(line.startswith("{") for line in lines)

        await until(answered)
        found: dict[str, str] = json.loads(next(line for line in lines if line.startswith("{")))
        return found

    return start


@pytest.fixture
def wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a hostile engine would try."""
    state, home = tmp_path / "state", tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MODELIUM_GATEWAY__TOKEN", "s3cret")
    monkeypatch.setenv("HF_TOKEN", "s3cret")
    files = [
        *("state/modelium.db", "state/vllm/other.json", "state/vllm/work/other/weights"),
        *("home/.ssh/id_ed25519", "home/notes/text", "repository/m/weights"),
        "state/repository/m/weights",
    ]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("x")
    (home / "way").symlink_to(state)
    return {
        "read": [*(str(tmp_path / file) for file in files), str(home / "way/modelium.db")],
        "write": [str(tmp_path / file) for file in ("repository/m/new", "home/.bashrc")],
        "list": str(state),
        "pid": os.getpid(),
        "port": 1,
    }


async def test_an_engine_neither_reads_secrets_nor_changes_what_is_not_its_own(
    run: Run, wanted: dict[str, Any], tmp_path: Path
) -> None:
    found = await run(wanted)
    denied = {path for path, outcome in found.items() if outcome == "PermissionError"}
    weights = ("repository/m/weights", "state/repository/m/weights")
    shown = {str(tmp_path / file) for file in ("home/notes/text", *weights)}
    assert {path for path in wanted["read"] if path not in denied} == shown
    assert denied >= {*wanted["write"], "list", "environ", "signal"} - (
        set() if confine.abi() >= 6 else {"signal"}
    )
    assert (found["tmp"], found["shm"]) == ("done", "done")
    assert found["connect"] == "ConnectionRefusedError"
    assert not {"MODELIUM_GATEWAY__TOKEN", "HF_TOKEN", "MODELIUM_SANDBOX"} & {*found["variables"]}


async def test_what_an_engine_starts_can_use_cuda_and_changes_no_setting_of_the_kernel(
    supervise: Supervise, cuda_library: Path, tmp_path: Path
) -> None:
    (tmp_path / "gpus").write_text("GPU-00000000-0000-0000-0000-000000000001 0000:01:00.0 1 H200\n")
    probe = f"{sys.executable} -I {cuda_probe.__file__} list"
    settings = ("/proc/sys/kernel/core_pattern", "/proc/irq/default_smp_affinity")
    tries = "".join(f"; true >> {path} && echo changed {path}" for path in settings)
    supervisor = supervise("required")
    supervisor.start(
        "m",
        Command(
            argv=("/bin/sh", "-c", f"{probe}{tries}; echo over"),
            environment={
                "LD_LIBRARY_PATH": str(cuda_library.parent),
                "FAKE_CUDA_TABLE": str(tmp_path / "gpus"),
            },
        ),
        {},
    )
    lines: list[str] = []

    def over() -> bool:
        lines.extend(supervisor.log("m").new_lines())
        return "over" in lines

    await until(over)
    assert [json.loads(line)["devices"][0]["name"] for line in lines if line[0] == "{"] == ["H200"]
    assert not [line for line in lines if line.startswith("changed")]


async def test_an_engine_reads_no_credentials_of_tools(
    run: Run, wanted: dict[str, Any], tmp_path: Path
) -> None:
    names = (
        *(".cache/huggingface/token", ".huggingface/token", ".prefect/profiles.toml"),
        *(".ngc/config", ".kaggle/kaggle.json", ".config/rclone/rclone.conf", ".oci/config"),
        *(".config/containers/auth.json", ".password-store/x.gpg", ".cargo/credentials.toml"),
        ".local/share/keyrings/login.keyring",
    )
    files = [tmp_path / "home" / name for name in names]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    wanted["read"] = [*map(str, files), "/etc/shadow", "/etc/gshadow"]
    found = await run(wanted)
    assert {found[path] for path in wanted["read"]} == {"PermissionError"}


def test_files_beside_what_is_hidden_are_closed_but_those_of_the_system(tmp_path: Path) -> None:
    """A rule for a file would keep its blocks from being freed when it is removed."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "file").write_text("")
    opened = set(confine.readable([str(tmp_path / "state"), "/etc/shadow"], []))
    assert str(tmp_path / "folder") in opened
    assert "/etc/passwd" in opened
    assert {path for path in map(str, Path("/etc/ssl").glob("*")) if os.path.isfile(path)} <= set(
        confine.readable(["/etc/ssl/private"], [])
    )
    assert not {str(tmp_path / "file"), str(tmp_path / "state"), "/etc/shadow"} & opened


async def test_off_is_off(run: Run, wanted: dict[str, Any], tmp_path: Path) -> None:
    found = await run(wanted, mode="off")
    assert {found[path] for path in wanted["read"]} == {"done"}
    assert found["directory"] == str(tmp_path / "state/vllm")


async def test_an_engine_may_change_what_its_command_names(
    run: Run, wanted: dict[str, Any], tmp_path: Path
) -> None:
    found = await run(wanted, writable=(tmp_path / "home",))
    assert [found[path] for path in wanted["write"]] == ["PermissionError", "done"]
    assert found["directory"] == str(tmp_path / "state/vllm/work/m")


@pytest.mark.skipif(confine.abi() < 4, reason="the kernel cannot bound connections")
async def test_an_engine_that_needs_no_connections_opens_none(
    run: Run, wanted: dict[str, Any]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        wanted["port"] = server.getsockname()[1]
        assert (await run(wanted))["connect"] == "done"
        assert (await run(wanted, connects=False))["connect"] == "PermissionError"


def test_a_command_that_does_not_exist_is_said_at_once(tmp_path: Path) -> None:
    supervisor = Supervisor(
        directory=tmp_path, clock=SystemClock(), sandbox=Sandbox(mode="auto", hidden=())
    )
    with pytest.raises(LoadFailed, match="install it"):
        supervisor.start("m", Command(argv=("/nonexistent/vllm",)), {})
    assert supervisor.records() == {}


def test_without_landlock_engines_start_unless_confinement_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "unavailable", lambda: "the kernel has no Landlock")
    free = Sandbox(mode="auto", hidden=()).wrapped(("/bin/true",), {"A": "1"}, work=tmp_path)
    assert free == (("/bin/true",), {"A": "1"}, None)
    strict = Supervisor(
        directory=tmp_path, clock=SystemClock(), sandbox=Sandbox(mode="required", hidden=())
    )
    with pytest.raises(LoadFailed, match="no Landlock; set it to `auto`"):
        strict.start("m", Command(argv=("/bin/true",)), {})
    assert strict.records() == {}


def test_the_libraries_beside_a_program_are_readable_though_files_beside_secrets_are_not(
    tmp_path: Path,
) -> None:
    state, program = tmp_path / "state", tmp_path / "cat"
    state.mkdir()
    shutil.copy(shutil.which("cat") or "", program)
    for name in ("libx.so.1", "notes"):
        (tmp_path / name).write_text("x")
    argv, variables, work = Sandbox(mode="required", hidden=(state,)).wrapped(
        (str(program), "../../libx.so.1", "../../notes"), {}, work=state / "work"
    )
    done = subprocess.run(
        argv, env=variables, cwd=work, capture_output=True, text=True, check=False
    )
    assert (done.stdout, "Permission denied" in done.stderr) == ("x", True)


def test_files_that_the_environment_names_are_readable_unless_they_are_secrets(
    tmp_path: Path,
) -> None:
    state, certificates = tmp_path / "state", tmp_path / "ca.pem"
    state.mkdir()
    for file in (certificates, state / "key"):
        file.write_text("x")
    given = {"SSL_CERT_FILE": str(certificates), "OTHER": f"/nowhere:{state}/key"}
    argv, variables, work = Sandbox(mode="required", hidden=(state,)).wrapped(
        ("/bin/cat", "../../ca.pem", "../key"), given, work=state / "work"
    )
    done = subprocess.run(
        argv, env=variables, cwd=work, capture_output=True, text=True, check=False
    )
    assert (done.stdout, "Permission denied" in done.stderr) == ("x", True)
