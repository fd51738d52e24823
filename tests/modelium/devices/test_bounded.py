"""A driver that hangs holds nobody up, shows, and is asked again once it answers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from threading import enumerate as threads

import pytest

from modelium.devices import detect
from modelium.devices.bounded import FIRST_S, BoundedInventory, answered
from modelium.devices.bounded import LIMIT_S as LIMIT_S_OF_EACH
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
        # Whoever waits gets these, and finds the file the next time; this waits for nobody.
        with open(os.open(held, os.O_RDWR), "r+b", buffering=0) as held_pipe:
            held_pipe.write(answers.encode())


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
        detect("n", environment={}, limit_s=LIMIT_S / 2, first_s=LIMIT_S)


class Heard(logging.Handler):
    """Sets an event at the first line of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.line = ""
        self.event = Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.line = record.getMessage()
        self.event.set()


def test_a_driver_that_wakes_its_gpus_at_the_start_is_waited_for_and_named(
    fake_nvml: FakeNvml,
) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a"))
    heard, log = Heard(), logging.getLogger("modelium.devices.bounded")
    log.addHandler(heard)
    try:
        with ThreadPoolExecutor(1) as pool:
            with hanging(fake_nvml):
                asked = pool.submit(detect, "n", environment={}, limit_s=LIMIT_S, first_s=60.0)
                assert heard.event.wait(60)
            gpu, _cpu = asked.result().snapshot()
    finally:
        log.removeHandler(heard)
    assert gpu.id == "n/GPU-a"
    assert heard.line == (
        "waiting for the NVIDIA driver, up to 60 s: without persistence mode it wakes each GPU "
        "first (`nvidia-smi -pm 1` keeps them awake)"
    )


def test_the_first_answer_may_take_a_minute_and_no_line_is_logged_where_it_comes_soon() -> None:
    assert (LIMIT_S_OF_EACH, FIRST_S) == (10.0, 60.0)
    heard, log = Heard(), logging.getLogger("modelium.devices.bounded")
    log.addHandler(heard)
    try:
        assert answered(lambda: 7, soon_s=60.0) == 7
    finally:
        log.removeHandler(heard)
    assert not heard.line


def test_an_error_at_the_start_is_the_drivers_own() -> None:
    def broken() -> None:
        raise TimeoutError("from within")

    with pytest.raises(TimeoutError, match="from within"):
        answered(broken)


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
