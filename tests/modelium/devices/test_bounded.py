"""A driver that hangs holds nobody up, shows, and is asked again once it answers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from threading import enumerate as threads

import pytest

from modelium.devices import detect
from modelium.devices.bounded import BoundedInventory
from modelium.errors import Unavailable
from modelium.models import Device
from tests.fakes.devices import CPU
from tests.fakes.nvml import FakeGpu, FakeNvml, fake_nvml, nvml_library

__all__ = ["fake_nvml", "nvml_library"]

LIMIT_S = 0.2


@contextmanager
def hanging(nvml: FakeNvml) -> Iterator[None]:
    """Have each call of the fake driver wait: its table is a pipe that nobody writes to."""
    answers = nvml.table.read_text()
    pipe = nvml.table.with_name("pipe")
    os.mkfifo(pipe)
    pipe.rename(nvml.table)
    held = nvml.table.with_name("held")
    os.link(nvml.table, held)
    try:
        yield
    finally:
        fresh = nvml.table.with_name("fresh")
        fresh.write_text(answers)
        fresh.rename(nvml.table)
        held.write_text(answers)  # whoever waits gets these, and finds the file the next time


def test_gpus_of_a_driver_that_hangs_are_unhealthy_and_heal(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a"))
    inventory = detect("n", environment={}, limit_s=LIMIT_S)
    with hanging(fake_nvml):
        gpu, cpu = inventory.snapshot()
    assert (gpu.id, gpu.healthy, gpu.free_bytes) == ("n/GPU-a", False, 0)
    assert gpu.total_bytes > 0
    assert "nvidia-smi" in gpu.detail
    assert cpu.healthy, "it has no driver"
    healed = ()
    while not (healed and healed[0].healthy):
        healed = inventory.snapshot()
    assert healed[0].free_bytes > 0


def test_a_driver_that_hangs_at_the_start_is_an_error(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a"))
    with hanging(fake_nvml), pytest.raises(Unavailable, match="nvidia-smi"):
        detect("n", environment={}, limit_s=LIMIT_S)


class Stuck:
    """An inventory that answers when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers = Event()

    def snapshot(self) -> tuple[Device, ...]:
        self.asked += 1
        self.answers.wait()
        return (CPU,)


def test_a_question_that_hangs_is_not_repeated() -> None:
    stuck = Stuck()
    stuck.answers.set()
    inventory = BoundedInventory(devices=stuck, limit_s=LIMIT_S)
    assert inventory.snapshot() == (CPU,)
    stuck.answers.clear()
    inventory.snapshot()
    before = set(threads())
    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(lambda _: inventory.snapshot(), range(100)))
    assert stuck.asked == 2
    assert [t for t in set(threads()) - before if t.name == "devices"] == []
    assert {device.healthy for devices in seen for device in devices} == {False}
    stuck.answers.set()


def test_errors_of_the_driver_are_its_own() -> None:
    class Broken:
        def snapshot(self) -> tuple[Device, ...]:
            raise TimeoutError("from within")

    with pytest.raises(TimeoutError, match="from within"):
        BoundedInventory(devices=Broken(), limit_s=LIMIT_S).snapshot()
