"""A fleet of many machines for benchmarks: 8 GPUs each, most memory in use, the rest waiting."""

from __future__ import annotations

import random

from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    Booking,
    Deployment,
    Device,
    Fleet,
    LoadSettings,
    Model,
    Node,
    NodeReport,
    RuntimeName,
    RuntimeStatus,
    Traffic,
)
from tests.nodes import text_model

NOW = 1_800_000_000.0
GPUS = 8
TOTAL_GIB, USABLE_GIB = 80.0, 72.0
BUSY = 0.1
"""The share of loaded models that have requests."""
WIDE = 0.05
"""The share of models that take two to eight GPUs of one machine."""
WIDTHS = (2, 4, 8)
WIDTH = 1 - WIDE + WIDE * sum(WIDTHS) / len(WIDTHS)
"""Mean number of GPUs of a model."""


def node_name(index: int) -> str:
    """Return the name of a machine; names sort as their numbers."""
    return f"n{index:03}"


def gpu(node: str, index: int, free_gib: float) -> Device:
    """Return one of the GPUs of ``node``."""
    return Device(
        node=node,
        uuid=f"g{index}",
        kind="gpu",
        index=index,
        name="H100",
        total_bytes=int(TOTAL_GIB * GIB),
        free_bytes=int(free_gib * GIB),
    )


def vllm(node: str) -> RuntimeStatus:
    """Return that vLLM is healthy on ``node``."""
    return RuntimeStatus(name=RuntimeName.VLLM, node=node, enabled=True, healthy=True)


def wide_fleet(
    *, nodes: int, models: int, loaded: float, need: float = 1.1, seed: int = 1
) -> Fleet:
    """Return ``models`` on ``nodes`` machines.

    Args:
        nodes: machines of 8 GPUs.
        models: how many.
        loaded: which share of them is ready where it fits, a tenth of those busy; the others wait.
            0: all wait, as after a loss of power.
        need: what all models together need, as a share of the memory that there is.
        seed: of all random values.
    """
    rng = random.Random(seed)
    names = [node_name(i) for i in range(nodes)]
    free = {f"{name}/g{i}": USABLE_GIB for name in names for i in range(GPUS)}
    mean = need * USABLE_GIB * len(free) / models
    made: list[Model] = []
    bookings: list[Booking] = []
    emptiest = sorted(free, key=lambda id: rng.random())
    for i in range(models):
        name, width = f"m{i}", 1
        if rng.random() < WIDE:
            width = rng.choice(WIDTHS)
        share = min(rng.uniform(0.3, 1.7) * mean / WIDTH, USABLE_GIB)
        places = _places(free, emptiest, width, share) if i < loaded * models else ()
        for place in places:
            free[place] -= share
            size = int(share * GIB)
            bookings.append(Booking(model=name, device=place, bytes=size, resident_bytes=size))
        made.append(_model(rng, name, share * width, places))
    reports = {
        name: NodeReport(
            devices=tuple(gpu(name, i, free[f"{name}/g{i}"] + 8) for i in range(GPUS)),
            runtimes=(vllm(name),),
        )
        for name in names
    }
    return Fleet(
        at=NOW,
        revision=1,
        models=tuple(made),
        bookings=tuple(bookings),
        devices=tuple(device for report in reports.values() for device in report.devices),
        runtimes=tuple(status for report in reports.values() for status in report.runtimes),
        nodes=tuple(Node(name=name, report=report) for name, report in reports.items()),
    )


def _places(free: dict[str, float], order: list[str], width: int, share: float) -> tuple[str, ...]:
    """Return ``width`` GPUs of one machine with ``share`` GiB free each; none: there are none."""
    able: dict[str, list[str]] = {}
    for device in order:
        if free[device] >= share:
            found = able.setdefault(device.partition("/")[0], [])
            found.append(device)
            if len(found) == width:
                order.remove(found[0])  # the next model goes elsewhere
                order.append(found[0])
                return tuple(found)
    return ()


def _model(rng: random.Random, name: str, gib: float, places: tuple[str, ...]) -> Model:
    return Model(
        name=name,
        path="/",
        state=ModelState.READY if places else ModelState.QUEUED,
        state_since=NOW - 9000,
        queued_at=None if places else NOW - rng.uniform(1, 3600),
        registered_at=NOW - 9000,
        profile=text_model(gib),
        deployment=Deployment(
            model=name,
            version=1,
            runtime=RuntimeName.VLLM,
            devices=places,
            settings=LoadSettings(tensor_parallel_size=len(places)),
            started_at=NOW - 9000,
            ready_at=NOW - 8000,
            load_s=20,
        )
        if places
        else None,
        traffic=Traffic(
            in_flight=int(bool(places) and rng.random() < BUSY),
            first_request_at=NOW - 8000,
            last_request_at=NOW - rng.expovariate(1 / 600),
            rates=tuple(rng.random() / 10 for _ in range(4)),
            intervals=tuple(rng.randrange(20) for _ in range(16)),
        ),
    )
