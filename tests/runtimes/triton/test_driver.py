"""The Triton driver where it talks to no server, or to one that is not there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from modelium.clock import SystemClock
from modelium.config import Triton as TritonSection
from modelium.errors import ConfigError, FailureKind, LoadFailed, NeedsApproval, Unavailable
from modelium.models import GIB, Device, LoadSettings, ModelFormat, ModelProfile, TensorSpec
from runtimes.loading.failure_text import classify
from runtimes.triton import model_config
from runtimes.triton.driver import FAILURES, Triton
from runtimes.triton.repository import TritonRepository
from tests.engines import free_port
from tests.runtimes.conformance import benches
from tests.runtimes.requests import CPU, Inventory, no_progress, profile, request

GPU = Device(node="n", uuid="GPU-a", kind="gpu", index=2, total_bytes=80 * GIB, free_bytes=80 * GIB)
IMAGES = TensorSpec(name="images", dtype="FP32", shape=(-1, 3, 224, 224))
SCORES = TensorSpec(name="scores", dtype="FP32", shape=(-1, 10))


def onnx(**changes: object) -> ModelProfile:
    return profile(ModelFormat.ONNX, files={"model": "model.onnx"}, **changes)


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


def parse(text: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


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


def drop(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_drop_becomes_an_entry_with_all_files_beside_the_graph(tmp_path: Path) -> None:
    source = drop(tmp_path / "m", model_onnx="graph", weights_data="external", readme_md="hi")
    repository = TritonRepository(root=tmp_path / "triton")
    entry = repository.add(request(source, profile=onnx(), version=3))
    assert entry == tmp_path / "triton/m"
    assert (entry / "3/model.onnx").samefile(source / "model.onnx"), "linked, not copied"
    assert (entry / "3/weights.data").read_text() == "external"
    assert repository.version("m") == 3
    repository.remove("m")
    assert not entry.exists()
    assert (source / "model.onnx").read_text() == "graph"


def test_an_entry_in_tritons_own_form_is_taken_over(tmp_path: Path) -> None:
    source = drop(
        tmp_path / "m",
        config_pbtxt='name: "theirs"\nbackend: "onnxruntime"',
        **{"1__model_onnx": "one", "2__model_onnx": "two"},
    )
    triton = profile(ModelFormat.TRITON, architecture="onnxruntime")
    entry = TritonRepository(root=tmp_path / "triton").add(request(source, profile=triton))
    assert (entry / "2/model.onnx").read_text() == "two"
    assert parse((entry / "config.pbtxt").read_text()).name == "m"
    assert 'name: "theirs"' in (source / "config.pbtxt").read_text(), "the drop stays as it was"


def test_python_code_needs_approval_and_its_file(tmp_path: Path) -> None:
    triton = profile(ModelFormat.TRITON, architecture="python", files={"model": "1/model.py"})
    source = drop(tmp_path / "m", config_pbtxt='backend: "python"', **{"1__model_py": "code"})
    repository = TritonRepository(root=tmp_path / "triton")
    with pytest.raises(NeedsApproval, match="approve m remote-code"):
        repository.add(request(source, profile=triton))
    assert not (tmp_path / "triton/m").exists()
    repository.add(request(source, profile=triton, allow_remote_code=True))

    (source / "1/model.py").rename(source / "1/other.py")
    with pytest.raises(LoadFailed, match="hang") as failure:
        repository.add(request(source, profile=triton, allow_remote_code=True))
    assert failure.value.kind == FailureKind.BAD_FILES


@pytest.mark.parametrize("files", [{}, {"model_onnx": ""}])
def test_missing_or_empty_model_files_are_refused_before_triton_sees_them(
    tmp_path: Path, files: dict[str, str]
) -> None:
    source = drop(tmp_path / "m", readme_md="hi", **files)
    with pytest.raises(LoadFailed) as failure:
        TritonRepository(root=tmp_path / "triton").add(request(source, profile=onnx()))
    assert failure.value.kind == FailureKind.BAD_FILES
    assert list((tmp_path / "triton").iterdir()) == []


def test_an_entry_of_the_users_is_never_overwritten_or_removed(tmp_path: Path) -> None:
    theirs = drop(tmp_path / "triton/m", **{"1__model_onnx": "theirs"})
    repository = TritonRepository(root=tmp_path / "triton")
    source = drop(tmp_path / "m", model_onnx="ours")
    with pytest.raises(LoadFailed, match="not of Modelium's making"):
        repository.add(request(source, profile=onnx()))
    repository.remove("m")
    assert (theirs / "1/model.onnx").read_text() == "theirs"


def test_links_out_of_a_drop_are_not_followed(tmp_path: Path) -> None:
    secret = drop(tmp_path / "elsewhere", secret_txt="secret")
    source = drop(tmp_path / "m", model_onnx="graph")
    (source / "link.txt").symlink_to(secret / "secret.txt")
    (source / "folder").symlink_to(secret)
    entry = TritonRepository(root=tmp_path / "triton").add(request(source, profile=onnx()))
    assert sorted(path.name for path in (entry / "1").iterdir()) == ["model.onnx"]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("failed to load 'm', failed to poll from model repository", FailureKind.BAD_FILES),
        ("at least one version must be available under the version policy", FailureKind.BAD_FILES),
        (
            "InvalidProtobuf: Load model from x failed:Protobuf parsing failed",
            FailureKind.BAD_FILES,
        ),
        ("unable to find backend library for backend 'openvino'", FailureKind.UNSUPPORTED),
        (
            "instance group m_0 of model m has kind KIND_GPU but no GPUs are available",
            FailureKind.BAD_SETTINGS,
        ),
        ("CUDA error: out of memory", FailureKind.OUT_OF_MEMORY),
    ],
)
def test_tritons_refusals_have_kinds(text: str, kind: FailureKind) -> None:
    assert classify([text], None, FAILURES) == kind


def driver(state: Path, **section: object) -> Triton:
    endpoint = {"endpoint": f"http://127.0.0.1:{free_port(3)}"}
    return Triton(
        config=TritonSection.model_validate({"enabled": True} | endpoint | section),
        state_directory=state,
        clock=SystemClock(),
        devices=Inventory(),
    )


async def test_a_server_that_is_not_there_is_told_and_never_raised_by_status(
    tmp_path: Path,
) -> None:
    async with driver(tmp_path) as triton:
        status = await triton.status()
        assert not status.healthy
        assert "triton.endpoint" in status.detail
        with pytest.raises(Unavailable):
            await triton.load(
                request(drop(tmp_path / "m", model_onnx="x"), profile=onnx()),
                progress=no_progress,
            )
        with pytest.raises(Unavailable):
            await triton.discover({})
        assert await triton.stats() == {}


@pytest.mark.parametrize(
    "command", [("/nonexistent/tritonserver",), (sys.executable, "-c", "exit('no good option')")]
)
async def test_a_server_that_does_not_come_up_says_why(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    async with driver(tmp_path, command=command) as triton:
        status = await triton.status()
        assert not status.healthy
        assert await triton.discover({}) == []
        await triton.unload("m", handle={}, grace_s=1)
        await triton.end(grace_s=10)


async def test_triton_does_not_sleep(tmp_path: Path) -> None:
    async with driver(tmp_path) as triton:
        with pytest.raises(Unavailable, match="unload instead"):
            await triton.sleep("m", handle={})


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:99999", "https://x:1"])
def test_an_endpoint_that_is_none_is_an_error_of_the_configuration(
    tmp_path: Path, endpoint: str
) -> None:
    # The configuration's own check is passed by, as by who builds the section in code.
    section = TritonSection(enabled=True).model_copy(update={"endpoint": endpoint})
    with pytest.raises(ConfigError):
        Triton(config=section, state_directory=tmp_path, clock=SystemClock(), devices=Inventory())


def test_the_seeds_batch_size_is_a_default(tmp_path: Path) -> None:
    from runtimes.loading.settings import complete

    filled = complete(LoadSettings(), {"max_batch_size": 8, "other": True})
    assert filled.max_num_seqs == 8
    assert filled.extra == {"other": True}
    assert complete(LoadSettings(max_num_seqs=2), {"max_batch_size": 8}).max_num_seqs == 2


HANGING = """
import time

class TritonPythonModel:
    def initialize(self, args):
        time.sleep(3600)

    def execute(self, requests):
        return []
"""
PYTHON_ENTRY = """
backend: "python"
input [ { name: "a" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "b" data_type: TYPE_FP32 dims: [ 1 ] } ]
"""


@pytest.mark.real
async def test_a_model_that_hangs_the_server_is_stuck_and_others_still_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimes.triton.driver.ABORT_S", 1.0)
    bench = benches.triton(tmp_path)
    entry = drop(tmp_path / "hanging", config_pbtxt=PYTHON_ENTRY, **{"1__model_py": HANGING})
    hanging = request(
        entry,
        profile=profile(ModelFormat.TRITON, architecture="python", files={"model": "1/model.py"}),
        allow_remote_code=True,
        deadline_s=3,
    )
    async with bench.driver() as driver:
        assert isinstance(driver, Triton)
        try:
            for _ in range(2):
                with pytest.raises(LoadFailed) as failure:
                    await driver.load(hanging, progress=no_progress)
                assert failure.value.kind == FailureKind.STUCK
            (running,) = await driver.discover({})
            assert (running.model, running.state) == ("hanging", "unhealthy")
            assert "hanging" in (await driver.status()).detail
            await bench.ask(await driver.load(bench.request("fine"), progress=no_progress))
        finally:
            await driver.end(grace_s=1)
