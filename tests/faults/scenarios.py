"""What the service is asked to do while faults happen, and what must have come of it."""

from __future__ import annotations

import zipfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from modelium.control.operations import Operations
from tests.faults.house import Machine
from tests.invariants import Drop
from tests.invariants.folders import digest
from tests.samples import risky_onnx, tiny_onnx

Act = Callable[[Machine, Operations], Awaitable[object]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """One thing that the service does, from a state at rest to another one."""

    act: Act
    goal: Callable[[Machine], bool]
    """Whether it has come to a good end, at rest."""
    prepare: tuple[str, ...] = ()
    """Models that are loaded before."""
    before: Act | None = None
    """What else is done before."""
    wanted: tuple[str, ...] = ()
    """Models that a client asks for until they answer."""
    limit_s: float = 150.0
    """Of virtual time, until everything has to be well again."""
    gib: float = 8.0
    apart: bool = False
    """Whether the folders are on file systems of their own."""


def drop(machine: Machine, name: str = "tiny", *, weight: float = 1.0) -> None:
    """Drop a model."""
    _note(machine, name, machine.put(name, lambda folder: tiny_onnx(folder, weight=weight)))


def _note(machine: Machine, name: str, *paths: Path) -> None:
    machine.drops.append(Drop(name=name, digests=frozenset(digest(path) for path in paths)))


async def _drop(machine: Machine, _operations: Operations) -> None:
    drop(machine)


async def _archive(machine: Machine, _operations: Operations) -> None:
    model = machine.put("tiny", tiny_onnx, place=machine.folder / "source")

    def write(file: Path) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.write(model / "model.onnx", "tiny/model.onnx")

    _note(machine, "tiny.zip", model, machine.put("tiny.zip", write))


async def _copy(machine: Machine, operations: Operations) -> None:
    source = machine.put("tiny", tiny_onnx, place=machine.folder / "source")
    await operations.ingest(path=str(source))


async def _refused(machine: Machine, _operations: Operations) -> None:
    _note(machine, "risky", machine.put("risky", lambda folder: risky_onnx(folder, "x.pkl")))


async def _next_version(machine: Machine, _operations: Operations) -> None:
    drop(machine, weight=2.0)


async def _drop_other(machine: Machine, _operations: Operations) -> None:
    drop(machine, "other", weight=3.0)


async def _lose(machine: Machine, _operations: Operations) -> None:
    machine.runtime.lose("tiny")


def _ready(*names: str) -> Callable[[Machine], bool]:
    return lambda machine: all(machine.state(name) == "ready" for name in names)


def _state(name: str, *states: str | None) -> Callable[[Machine], bool]:
    return lambda machine: machine.state(name) in states


def _is_refused(machine: Machine) -> bool:
    return [each.name for each in machine.config.orchestration.rejected.iterdir()] == ["risky"]


def _switched(machine: Machine) -> bool:
    rows = machine.tables().models
    return [(r["name"], r["version"], r["state"]) for r in rows] == [("tiny", 2, "ready")]


def _has_made_room(machine: Machine) -> bool:
    """The request may have failed or died; then the other model stays, or comes back."""
    faulty = machine.points.fault is not None
    return machine.state("other") == "ready" or (faulty and machine.state("tiny") == "ready")


def _registered_or_there(machine: Machine) -> bool:
    """A copy's original stays; the request may have died with the service."""
    return (machine.folder / "source" / "tiny").is_dir() and machine.state("tiny") in (
        "ready",
        None,
    )


SCENARIOS: dict[str, Scenario] = {
    "drop": Scenario(act=_drop, goal=_ready("tiny"), wanted=("tiny",)),
    "archive": Scenario(act=_archive, goal=_ready("tiny"), wanted=("tiny",)),
    "drop from another file system": Scenario(
        act=_drop, goal=_ready("tiny"), wanted=("tiny",), apart=True
    ),
    "copy": Scenario(act=_copy, goal=_registered_or_there),
    "refuse": Scenario(act=_refused, goal=_is_refused),
    "approve": Scenario(
        before=_refused,
        act=lambda machine, operations: operations.approve("risky"),
        goal=_state("risky", "ready", None),
    ),
    "another version": Scenario(
        prepare=("tiny",), act=_next_version, goal=_switched, wanted=("tiny",), limit_s=420.0
    ),
    "make room": Scenario(
        prepare=("tiny",),
        before=_drop_other,
        act=lambda machine, operations: operations.load("other"),
        goal=_has_made_room,
        gib=0.5,
    ),
    "unload": Scenario(
        prepare=("tiny",),
        act=lambda machine, operations: operations.unload("tiny"),
        goal=_state("tiny", "unloaded", "ready"),
    ),
    "load": Scenario(
        prepare=("tiny",),
        before=lambda machine, operations: operations.unload("tiny"),
        act=lambda machine, operations: operations.load("tiny"),
        goal=_ready("tiny"),
        wanted=("tiny",),
    ),
    "remove": Scenario(
        prepare=("tiny",),
        act=lambda machine, operations: operations.versions.remove(
            "tiny", by="me", purge=False, force=False
        ),
        goal=_state("tiny", None, "ready"),
    ),
    "lose": Scenario(prepare=("tiny",), act=_lose, goal=_ready("tiny"), wanted=("tiny",)),
}
