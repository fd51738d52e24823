"""A host of small engine processes that start in some hundredths of a second."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelium.errors import FailureKind
from modelium.models import GIB, Device, DeviceProcess
from modelium.ports import LoadRequest
from runtimes.engines.client import EngineClient
from runtimes.engines.host import EngineHost
from runtimes.engines.sleep import EngineSleep
from runtimes.loading.device_locks import DeviceLocks
from runtimes.process import proc
from runtimes.process.patience import Patience
from runtimes.process.supervisor import Command, EngineProcess, Supervisor
from tests.runtimes.engines.api import Recipe
from tests.runtimes.fake_vllm import Skipping
from tests.runtimes.requests import CPU, request

GPU = CPU.model_copy(update={"uuid": "GPU-a", "kind": "gpu"})

CODE = r"""
import json, os, signal, socket, sys, time
folder, host, port = sys.argv[1:]
def told():
    with open(folder + "/told.json") as file:
        return json.load(file)
def note(name, line):
    with open(folder + "/" + name, "a") as file:
        file.write(line + "\n")
def count(name):
    with open(folder + "/" + name) as file:
        return len(file.readlines())
first = told()
signal.signal(signal.SIGTERM, signal.SIG_IGN if first.get("deaf") else signal.SIG_DFL)
if first.get("region"):
    import mmap
    region = open(first["region"], "w+b")
    region.truncate(4096)
    mapped = mmap.mmap(region.fileno(), 4096)
note("starts", port)
exits = first.get("exits", [])
if count("starts") <= len(exits):
    print(exits[count("starts") - 1], flush=True)
    os._exit(3)
while first.get("hangs"):
    time.sleep(600)
server = socket.create_server((host, int(port)), backlog=64)
while True:
    connection, _ = server.accept()
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536) or b"\r\n\r\n"
    if not data.strip():
        continue
    method, target, _ = data.decode().split(" ", 2)
    note("seen", method + " " + target)
    status, body = told()["answers"].get(target.partition("?")[0], (404, ""))
    if status:
        text = (body if isinstance(body, str) else json.dumps(body)).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + text)
    connection.close()
"""


class SmallRecipe(Recipe):
    """Of the process above; a log whose last line is ``fails KIND`` is a failure of that kind."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.reduces = True
        self.refuses: Exception | None = None

    def complete(self, request: LoadRequest) -> LoadRequest:
        settings = request.settings.model_copy(update={"dtype": "completed"})
        return replace(request, settings=settings)

    def command(self, request: LoadRequest, *, host: str, port: int, key: str) -> Command:
        if self.refuses:
            raise self.refuses
        argv = (sys.executable, "-ISc", CODE, request.path, host, str(port))
        return Command(argv=argv, environment={"KEY": key})

    def failure(self, lines: Sequence[str], code: int | None) -> FailureKind:
        kinds = [line.split()[1] for line in lines if line.startswith("fails ")]
        return FailureKind(kinds[-1]) if kinds else FailureKind.UNKNOWN

    def smaller(self, request: LoadRequest, lines: Sequence[str]) -> LoadRequest | None:
        settings = request.settings.model_copy(update={"max_num_seqs": len(lines)})
        return replace(request, settings=settings) if self.reduces else None


class Gpus:
    """An inventory of a CPU and a GPU; ``held``: processes with memory on that."""

    def __init__(self) -> None:
        self.held: list[int] = []
        self.looks = 0

    def snapshot(self) -> Sequence[Device]:
        self.looks += 1
        holding = tuple(DeviceProcess(pid=pid, used_bytes=GIB) for pid in self.held)
        return (CPU, GPU.model_copy(update={"processes": holding}))


class Small:
    """Hosts over one directory, as restarts of Modelium would build them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.clock = Skipping()
        self.devices, self.locks = Gpus(), DeviceLocks()
        self.recipe = SmallRecipe(folder)
        self.client = EngineClient(recipe=self.recipe, clock=self.clock, timeout_s=30)
        self.progress: list[str] = []

    def host(self, *, sleeps: bool = False, **given: Any) -> EngineHost:
        sleep = EngineSleep(
            enabled=sleeps,
            client=self.client,
            device_locks=self.locks,
            devices=self.devices,
            clock=self.clock,
        )
        default: dict[str, Any] = {
            "recipe": self.recipe,
            "host": "127.0.0.1",
            "base_port": 0,
            "directory": self.state,
            "clock": self.clock,
            "devices": self.devices,
            "device_locks": self.locks,
            "client": self.client,
            "sleep": sleep,
            "patience": Patience(limit_s=30.0),
        }
        return EngineHost(**default | given)

    def model(self, name: str = "m", **told: Any) -> Path:
        """Make the folder of a model; ``told``: what the process does besides answering."""
        path = self.folder / name
        path.mkdir()
        answers = {
            "/health": (200, ""),
            "/v1/models": (200, {"data": [{"id": name}]}),
            "/probe": (200, ""),
            "/metrics": (200, "{}"),
        }
        (path / "told.json").write_text(json.dumps({"answers": answers} | told))
        return path

    def tell(self, name: str = "m", **answers: tuple[int, Any]) -> None:
        """Have the engine answer the paths of these names so from now on."""
        path = self.folder / name / "told.json"
        told = json.loads(path.read_text())
        told["answers"] |= {f"/{key}": answer for key, answer in answers.items()}
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(told))
        fresh.replace(path)

    def request(self, path: Path, *devices: Device, **given: Any) -> LoadRequest:
        return request(path, devices=devices or (CPU,), **given)

    def note(self, phase: str, share: float | None) -> None:
        self.progress.append(phase)

    def lines(self, file: str, name: str = "m") -> list[str]:
        path = self.folder / name / file
        return path.read_text().splitlines() if path.exists() else []

    def ports(self, name: str = "m") -> list[int]:
        """Return the ports of its starts."""
        return list(map(int, self.lines("starts", name)))


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Small]:
    found = Small(tmp_path)
    yield found
    supervisor = Supervisor(directory=found.state, clock=found.clock)
    for model, record in supervisor.records().items():
        if (engine := EngineProcess.from_record(model, record)) and engine.pid != os.getpid():
            await supervisor.stop(engine, grace_s=0)
    await found.client.close()


def gone(pid: int) -> bool:
    return not proc.alive(pid)
