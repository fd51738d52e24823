"""Generated and adapted configurations, parsed with Triton's own schema."""

from __future__ import annotations

import pytest
from tritonclient.grpc import model_config_pb2

from modelium.errors import FailureKind, LoadFailed
from modelium.models import GIB, Device, ModelFormat, ModelProfile, TensorSpec
from modelium.models.runtimes import TRITON
from runtimes.triton import model_config
from tests.runtimes.requests import CPU, profile
from tests.runtimes.triton.drops import onnx, parse

GPU = Device(node="n", uuid="GPU-a", kind="gpu", index=2, total_bytes=80 * GIB, free_bytes=80 * GIB)


IMAGES = TensorSpec(name="images", dtype="FP32", shape=(-1, 3, 224, 224))


SCORES = TensorSpec(name="scores", dtype="FP32", shape=(-1, 10))


def config(
    model: ModelProfile, *, device: Device = CPU, batch: int | None = None, name: str = "m"
) -> object:
    """What Triton would read: parsed with its own schema."""
    text = model_config.generate(
        name=name,
        profile=model,
        filename="net.onnx",
        device=device,
        max_batch_size=batch,
        memory_bytes=GIB,
    )
    return parse(text)


def test_a_model_of_unknown_tensors_is_left_to_autocompletion() -> None:
    made = config(onnx())
    assert (made.name, made.backend) == ("m", "onnxruntime")
    assert made.default_model_filename == "net.onnx"
    assert not made.input
    (group,) = made.instance_group
    assert (group.count, group.kind) == (1, group.KIND_CPU)


def test_batching_needs_a_free_first_dimension_in_every_tensor() -> None:
    batched = config(onnx(inputs=(IMAGES,), outputs=(SCORES,)), batch=8)
    assert batched.max_batch_size == 8
    assert list(batched.input[0].dims) == [3, 224, 224]
    assert batched.HasField("dynamic_batching")

    fixed = TensorSpec(name="scores", dtype="FP32", shape=(1, 10))
    single = config(onnx(inputs=(IMAGES,), outputs=(fixed,)), batch=8)
    assert single.max_batch_size == 0
    assert list(single.input[0].dims) == [-1, 3, 224, 224]
    assert not single.HasField("dynamic_batching")


def test_strings_and_scalars_are_written_as_triton_has_them() -> None:
    text = TensorSpec(name="text", dtype="BYTES", shape=(-1, 1))
    scalar = TensorSpec(name="rate", dtype="INT64", shape=())
    made = config(onnx(inputs=(text, scalar), outputs=(SCORES,)))
    first, second = made.input
    assert first.data_type == model_config_pb2.TYPE_STRING
    assert list(second.dims) == [1]
    assert second.HasField("reshape")
    assert list(second.reshape.shape) == []


def test_a_gpu_model_stays_on_its_gpu_within_its_reservation() -> None:
    made = config(onnx(), device=GPU)
    (group,) = made.instance_group
    assert (group.kind, list(group.gpus)) == (group.KIND_GPU, [2])
    assert made.parameters["gpu_mem_limit"].string_value == str(GIB)


def test_names_out_of_model_files_cannot_break_out_of_their_quotes() -> None:
    nasty = TensorSpec(name='x" } instance_group { count: 99 } #\n\\é', dtype="FP32", shape=(1,))
    made = config(onnx(inputs=(nasty,), outputs=(SCORES,)))
    assert made.input[0].name == nasty.name
    assert [group.count for group in made.instance_group] == [1]


def test_torchscript_without_tensors_asks_for_a_configuration() -> None:
    model = profile(ModelFormat.TORCHSCRIPT, files={"model": "model.pt"})
    with pytest.raises(LoadFailed, match=r"config\.pbtxt") as failure:
        config(model)
    assert failure.value.kind == FailureKind.BAD_FILES


def test_every_format_with_a_generated_configuration_is_one_of_tritons() -> None:
    assert set(model_config.BACKENDS) < TRITON.formats


def test_formats_without_a_backend_are_unsupported() -> None:
    with pytest.raises(LoadFailed) as failure:
        config(profile(ModelFormat.GGUF))
    assert failure.value.kind == FailureKind.UNSUPPORTED


@pytest.mark.parametrize(
    ("given", "groups"),
    [
        ('name: "other"\nbackend: "onnxruntime"\nmax_batch_size: 4\n', 1),
        ("backend: 'python'\nname: 'other'\ninput [ { name: \"name\" dims: [1] } ]", 1),
        ('backend: "x"\ninstance_group [ { count: 3 kind: KIND_CPU } ]', 1),
        ('platform: "ensemble"\nensemble_scheduling { step [ { model_name: "a" } ] }', 0),
    ],
)
def test_a_configuration_of_the_users_keeps_all_but_its_name(given: str, groups: int) -> None:
    before = parse(given)
    after = parse(model_config.complete(given, name="m", device=CPU))
    assert after.name == "m"
    assert len(after.instance_group) == groups
    if before.instance_group:
        assert after.instance_group == before.instance_group
    after.name = before.name
    del after.instance_group[:]
    del before.instance_group[:]
    assert after == before
