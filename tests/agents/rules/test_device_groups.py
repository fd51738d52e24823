"""Which devices are used together, and which kind of device suits a model."""

from __future__ import annotations

import pytest

from agents.rules.device_groups import SMALL_BYTES, DeviceGroup, device_groups
from agents.rules.sites import Sites
from modelium.models import (
    GIB,
    Device,
    DeviceKind,
    Fleet,
    Load,
    Model,
    ModelFormat,
    Queue,
    RuntimeName,
    RuntimeStatus,
    RuntimeSupport,
    Task,
    Trigger,
)
from modelium.policy import RuntimeRules
from tests.agents.rules.asking import ask
from tests.fakes.fleets import fleet, model, policy, profile

MIB = 1024**2


def gpu(index: int, *, mib: int = 81_559, name: str = "H100", **given: object) -> Device:
    fields = {"total_bytes": mib * MIB, "free_bytes": mib * MIB, **given}
    return Device.model_validate(
        {"node": "n", "uuid": f"g{index}", "kind": "gpu", "index": index, "name": name, **fields}
    )


CPU = Device(node="n", uuid="cpu", kind="cpu", total_bytes=64 * GIB, free_bytes=64 * GIB)


def test_devices_of_one_name_within_one_percent_are_one_group() -> None:
    devices = (gpu(0), gpu(1, mib=81_558), gpu(2, mib=40_000), gpu(3, mib=81_000), gpu(4, name="A"))
    groups = device_groups(devices)
    assert [[d.index for d in group.devices] for group in groups] == [[0, 1, 3], [2], [4]]
    assert groups[0].total_bytes == 81_000 * MIB, "the smallest one decides"


def test_groups_are_kept_apart_by_kind_name_size_and_mig_in_the_order_of_the_devices() -> None:
    devices = (
        gpu(0, name="B"),
        gpu(1, name="A", mib=102),
        gpu(2, name="A", mib=101),
        gpu(3, name="A", mib=100),
        gpu(4, name="A", mib=100, mig=0),
        gpu(5, name="B", healthy=False),
        CPU,
        gpu(6, name="A", mib=100),
    )
    found = device_groups(devices)
    expected = [("B", [0], True), ("A", [1], True), ("A", [2, 3, 6], True), ("A", [4], False)]
    assert [(g.name, [d.index for d in g.devices], g.splits) for g in found[:-1]] == expected
    assert [g.kind for g in found] == ["gpu"] * 4 + ["cpu"]
    assert [g.total_bytes for g in found[1:]] == [102 * MIB, 100 * MIB, 100 * MIB, 64 * GIB]
    assert (found[-1].devices, found[-1].splits) == ((CPU,), False)


def test_a_group_yields_its_devices_node_by_node() -> None:
    devices = tuple(gpu(i).model_copy(update={"node": "ab"[i % 2]}) for i in range(3))
    (group,) = device_groups(devices)
    assert [[d.index for d in same] for same in group.by_node()] == [[0, 2], [1]]


@pytest.mark.parametrize(
    ("kind", "name", "product"),
    [("gpu", "H100", "H100"), ("gpu", "", "gpu"), ("cpu", "EPYC", "cpu")],
)
def test_estimates_know_a_gpu_by_its_name_and_a_cpu_by_its_kind(
    kind: str, name: str, product: str
) -> None:
    assert DeviceGroup(kind=kind, name=name, total_bytes=1, devices=()).product == product


def test_a_model_is_split_over_cards_that_differ_by_a_mebibyte() -> None:
    big = model("big", 400, profile=profile(400, tensor_parallel_degrees=(1, 2, 4, 8)))
    cards = tuple(gpu(i, mib=81_559 - i % 2) for i in range(8))
    (load,) = ask(fleet(big, devices=cards), Trigger.INGEST, "big").actions
    assert isinstance(load, Load)
    assert len(load.devices) == 8


def test_a_model_is_not_split_over_mig_instances() -> None:
    big = model("big", 60, profile=profile(60, tensor_parallel_degrees=(1, 2, 4)))
    instances = tuple(gpu(i, mib=40_000, mig=i) for i in range(4))
    (queued,) = ask(fleet(big, devices=instances), Trigger.INGEST, "big").actions
    assert not isinstance(queued, Load)
    small = model("small", 20, profile=profile(20, tensor_parallel_degrees=(1, 2, 4)))
    (load,) = ask(fleet(small, devices=instances), Trigger.INGEST, "small").actions
    assert isinstance(load, Load)


def onnx(bytes_: int, format_: ModelFormat = ModelFormat.ONNX) -> Model:
    able = (RuntimeSupport(runtime=RuntimeName.TRITON, supported=True),)
    given = profile(bytes_ / GIB, format=format_, task=Task.GENERIC, runtimes=able)
    return model("m", bytes_ / GIB, profile=given)


def gguf(gib: float) -> Model:
    able = (RuntimeSupport(runtime=RuntimeName.LLAMA_CPP, supported=True),)
    return model("m", gib, profile=profile(gib, format=ModelFormat.GGUF, runtimes=able))


def world(subject: Model, *devices: Device, kinds: tuple[DeviceKind, ...]) -> Fleet:
    names = (RuntimeName.TRITON, RuntimeName.LLAMA_CPP)
    return fleet(
        subject,
        devices=devices,
        runtimes=tuple(
            RuntimeStatus(name=name, enabled=True, healthy=True, device_kinds=frozenset(kinds))
            for name in names
        ),
    )


BOTH: tuple[DeviceKind, ...] = ("gpu", "cpu")
FULL = gpu(0, free_bytes=0)
LOST = gpu(0, healthy=False)


@pytest.mark.parametrize(
    ("subject", "kinds", "card", "expected"),
    [
        (onnx(SMALL_BYTES), BOTH, gpu(0), CPU.id),
        (onnx(2 * SMALL_BYTES), BOTH, gpu(0), "n/g0"),
        (onnx(SMALL_BYTES, ModelFormat.TENSORRT), BOTH, gpu(0), "n/g0"),
        (onnx(SMALL_BYTES), ("gpu",), gpu(0), "n/g0"),
        # A build without CUDA books no memory of a GPU.
        (gguf(4), ("cpu",), gpu(0), CPU.id),
        (gguf(4), ("gpu",), gpu(0), "n/g0"),
        (gguf(4), BOTH, gpu(0), "n/g0"),
        # Where the GPU is full or lost, a model waits for it instead of being slow on the CPU.
        (gguf(4), BOTH, FULL, None),
        (gguf(4), BOTH, LOST, None),
    ],
)
def test_the_cpu_beside_gpus_is_for_what_belongs_there(
    subject: Model, kinds: tuple[DeviceKind, ...], card: Device, expected: str | None
) -> None:
    by = policy(runtimes={r: RuntimeRules() for r in (RuntimeName.TRITON, RuntimeName.LLAMA_CPP)})
    (action,) = ask(world(subject, card, CPU, kinds=kinds), Trigger.INGEST, "m", by).actions
    if expected is None:
        assert isinstance(action, Queue)
    else:
        assert isinstance(action, Load)
        assert action.devices == (expected,)


SMALL = onnx(SMALL_BYTES)


@pytest.mark.parametrize(
    ("subject", "kinds", "devices", "expected"),
    [
        (SMALL, BOTH, (gpu(0), CPU), ["cpu", "gpu"]),
        (onnx(SMALL_BYTES + 1), BOTH, (CPU, gpu(0)), ["gpu"]),
        (gguf(0.1), BOTH, (gpu(0), CPU), ["gpu"]),
        (gguf(4), BOTH, (CPU,), ["cpu"]),
        (gguf(4), ("cpu",), (gpu(0), CPU), ["cpu"]),
        (SMALL, ("gpu",), (gpu(0), CPU), ["gpu"]),
        (gguf(4), BOTH, (LOST, CPU), []),
        (onnx(1, ModelFormat.TENSORRT), BOTH, (CPU,), []),
        (onnx(1, ModelFormat.TENSORRT), BOTH, (gpu(0), CPU), ["gpu"]),
    ],
)
def test_the_groups_that_suit_a_model_come_in_its_order(
    subject: Model, kinds: tuple[DeviceKind, ...], devices: tuple[Device, ...], expected: list[str]
) -> None:
    status = RuntimeStatus(
        name=RuntimeName.TRITON, enabled=True, healthy=True, device_kinds=frozenset(kinds)
    )
    assert subject.profile is not None
    known = fleet(devices=devices, runtimes=(status,))
    by = policy(runtimes={RuntimeName.TRITON: RuntimeRules()})
    sites = Sites(fleet=known, policy=by).of(RuntimeName.TRITON, subject.profile)
    assert [site.group.kind for site in sites] == expected


def test_a_small_onnx_model_goes_to_the_gpu_where_the_cpu_is_full() -> None:
    full = CPU.model_copy(update={"free_bytes": 0})
    by = policy(runtimes={RuntimeName.TRITON: RuntimeRules()})
    subject = world(onnx(SMALL_BYTES), gpu(0), full, kinds=BOTH)
    (load,) = ask(subject, Trigger.INGEST, "m", by).actions
    assert isinstance(load, Load)
    assert load.devices == ("n/g0",)
