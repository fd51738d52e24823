"""Every other format: recognised, sized, tied to the runtimes that serve it."""

import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from modelium.analysis import EngineCatalog, analyze
from modelium.errors import DropRejected
from modelium.models import ModelFormat, ModelProfile, RuntimeName, Task, TensorSpec
from tests.modelium.analysis.files import (
    GGUF_METADATA,
    LLAMA,
    PBTXT,
    gguf_folder,
    llama_folder,
    onnx_model,
    triton_folder,
    write_gguf,
    write_json,
    write_safetensors,
)


def reason_of(path: Path, *, approvals: frozenset[str] = frozenset()) -> str:
    with pytest.raises(DropRejected) as caught:
        analyze(path, approvals=approvals)
    return caught.value.reason


def supported(profile: ModelProfile) -> set[RuntimeName]:
    return {support.runtime for support in profile.runtimes if support.supported}


# --- ONNX ---------------------------------------------------------------------------------


def test_an_onnx_file_tells_its_inputs_outputs_and_size(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx_model())
    profile = analyze(tmp_path / "model.onnx")
    assert profile.format is ModelFormat.ONNX
    assert profile.inputs == (TensorSpec(name="X", dtype="FP32", shape=(-1, 8)),)
    assert profile.outputs == (TensorSpec(name="Y", dtype="FP32", shape=(-1, 4)),)
    assert (profile.weight_bytes, profile.parameter_count) == (128, 32)
    assert profile.details["opsets"] == {"": 17}
    assert profile.files == {"model": "model.onnx"}
    assert supported(profile) == {RuntimeName.TRITON, RuntimeName.RAY_SERVE}


def test_a_published_onnx_model_is_read_as_its_own_library_reads_it() -> None:
    import magika
    import onnx

    path = next(Path(magika.__file__).parent.rglob("*.onnx"))
    profile = analyze(path)
    model = onnx.load(path)
    weights = sum(len(t.raw_data) for t in model.graph.initializer)
    assert [i.name for i in profile.inputs] == [i.name for i in model.graph.input]
    assert [o.name for o in profile.outputs] == [o.name for o in model.graph.output]
    assert profile.weight_bytes >= weights > 0


def test_external_data_counts_and_must_be_whole(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx_model(external="w.data"))
    assert reason_of(tmp_path) == "missing-shard"
    (tmp_path / "w.data").write_bytes(bytes(127))
    assert reason_of(tmp_path) == "truncated"
    (tmp_path / "w.data").write_bytes(bytes(128))
    profile = analyze(tmp_path)
    assert profile.weight_bytes == 128
    assert profile.details["external_data"] == ["w.data"]


def test_external_data_hidden_in_a_subgraph_is_found(tmp_path: Path) -> None:
    import onnx
    from onnx import helper

    inner = onnx.load_from_string(onnx_model(external="../../secret")).graph
    del inner.input[:]
    model = onnx.load_from_string(onnx_model())
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=inner))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert reason_of(tmp_path) == "path-traversal"


def test_several_onnx_files_need_a_name(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(onnx_model())
    assert reason_of(tmp_path) == "ambiguous"
    (tmp_path / "model.onnx").write_bytes(onnx_model())
    assert analyze(tmp_path).files == {"model": "model.onnx"}


@pytest.mark.parametrize(
    "data", [b"", b"\x00" * 64, b"\x08\x07", b"x" * 100, b"\x3a\xff\xff\xff\x7f"]
)
def test_what_is_no_onnx_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    assert reason_of(tmp_path) in {"bad-onnx", "bad-protobuf", "truncated"}


def test_graphs_that_nest_without_end_are_refused(tmp_path: Path) -> None:
    def field(number: int, data: bytes) -> bytes:
        length, size = b"", len(data)
        while size >= 0x80:
            length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + data

    graph = b""
    for _ in range(200):
        graph = field(1, field(5, field(6, graph)))
    (tmp_path / "model.onnx").write_bytes(field(7, graph) + field(8, b"\x10\x11"))
    assert reason_of(tmp_path) == "too-deep"


# --- GGUF ---------------------------------------------------------------------------------


def test_a_gguf_file_tells_its_metadata_and_size(tmp_path: Path) -> None:
    profile = analyze(gguf_folder(tmp_path))
    assert profile.format is ModelFormat.GGUF
    assert (profile.architecture, profile.quantization) == ("llama", "Q4_K_M")
    assert profile.weight_bytes == 256 * 144
    assert profile.parameter_count == 256 * 256
    assert (profile.context_length, profile.vocabulary_size, profile.layers) == (4096, 3, 2)
    assert profile.kv_bytes_per_token == 2 * 2 * 2 * 32 * 2
    assert profile.license == "apache-2.0"
    assert profile.details["untrusted"] == {"chat_template": "{{ messages }}"}
    assert supported(profile) == {RuntimeName.LLAMA_CPP}


def test_a_split_gguf_is_one_model(tmp_path: Path) -> None:
    for part in (1, 2):
        write_gguf(
            tmp_path / f"m-{part:05}-of-00002.gguf",
            metadata=GGUF_METADATA,
            tensors=[(f"t{part}", (32,), 0, 0)],
            data=128,
        )
    profile = analyze(tmp_path)
    assert profile.weight_bytes == 256
    assert profile.files["model"] == "m-00001-of-00002.gguf"


def test_two_different_ggufs_are_ambiguous(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_gguf(tmp_path / f"{name}.gguf", metadata=GGUF_METADATA)
    assert reason_of(tmp_path) == "ambiguous"


@pytest.mark.parametrize(
    ("tensors", "data", "reason"),
    [
        ([("a", (32,), 0, 1 << 40)], 128, "truncated"),
        ([("a", (32,), 0, 0), ("a", (32,), 0, 128)], 256, "duplicate-tensor"),
        ([("a", (32,), 0, 0), ("b", (32,), 0, 64)], 256, "bad-gguf"),
        ([("a", (32,), 99, 0)], 128, "bad-gguf"),
        ([("a", (31,), 2, 0)], 128, "bad-gguf"),
        ([("a", (2**60, 2**60), 0, 0)], 128, "bad-gguf"),
        ([("a", (1,) * 9, 0, 0)], 128, "absurd-counts"),
    ],
)
def test_gguf_tensors_that_cannot_be_are_refused(
    tmp_path: Path, tensors: list[Any], data: int, reason: str
) -> None:
    write_gguf(tmp_path / "m.gguf", metadata=GGUF_METADATA, tensors=tensors, data=data)
    assert reason_of(tmp_path) == reason


@pytest.mark.parametrize("counts", [(2**60, 1), (1, 2**60), (250_000, 0)])
def test_gguf_counts_that_cannot_be_are_refused(tmp_path: Path, counts: tuple[int, int]) -> None:
    write_gguf(tmp_path / "m.gguf", metadata={}, counts=counts)
    assert reason_of(tmp_path) == "absurd-counts"


def test_a_gguf_of_another_version_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", metadata={}, version=1)
    assert reason_of(tmp_path) == "bad-gguf"


ENVIRONMENT = 'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/tmp/env" } }'


# --- Triton -------------------------------------------------------------------------------


def test_a_triton_entry_tells_its_configuration(tmp_path: Path) -> None:
    profile = analyze(triton_folder(tmp_path / "m"))
    assert profile.format is ModelFormat.TRITON
    assert profile.architecture == "onnxruntime"
    assert profile.inputs == (TensorSpec(name="X", dtype="FP32", shape=(-1, 8)),)
    assert profile.files == {"config": "config.pbtxt", "model": "1/model.onnx"}
    assert profile.weight_bytes == 128
    assert profile.details["instances"] == 2 and profile.details["dynamic_batching"]
    assert supported(profile) == {RuntimeName.TRITON}


def test_a_triton_server_without_the_backend_cannot_serve_it(tmp_path: Path) -> None:
    engines = EngineCatalog(triton_backends=frozenset({"python"}))
    profile = analyze(triton_folder(tmp_path / "m"), engines=engines)
    assert "onnxruntime" in profile.support(RuntimeName.TRITON).reason


@pytest.mark.parametrize(
    ("pbtxt", "reason"),
    [
        ("this is { no pbtxt", "bad-triton"),
        ('backend: "../../evil"', "bad-triton"),
        ('backend: "fancy" bogus_field: 3', "bad-triton"),
        (PBTXT + 'default_model_filename: "../../x.onnx"', "path-traversal"),
        (PBTXT + 'default_model_filename: "other.onnx"', "bad-triton"),
        (PBTXT + 'runtime: "../lib.so"', "path-traversal"),
        (PBTXT + ENVIRONMENT, "path-traversal"),
        ("ensemble_scheduling { step { " * 3000, "bad-triton"),
        ("\x00\xff", "bad-triton"),
    ],
)  # fmt: skip
def test_triton_configurations_that_cannot_be_are_refused(
    tmp_path: Path, pbtxt: str, reason: str
) -> None:
    assert reason_of(triton_folder(tmp_path / "m", pbtxt)) == reason


def test_an_entry_whose_file_is_missing_would_hang_the_server(tmp_path: Path) -> None:
    folder = triton_folder(tmp_path / "m")
    (folder / "1" / "model.onnx").unlink()
    assert reason_of(folder) == "bad-triton"
    shutil.rmtree(folder / "1")
    assert reason_of(folder) == "bad-triton"


def test_a_python_backend_is_code(tmp_path: Path) -> None:
    folder = triton_folder(tmp_path / "m", 'backend: "python"')
    (folder / "1" / "model.py").write_text("class TritonPythonModel: pass")
    assert reason_of(folder) == "remote-code"
    profile = analyze(folder, approvals=frozenset({"remote-code"}))
    assert profile.needs_remote_code and profile.files["model"] == "1/model.py"


# --- compiled -----------------------------------------------------------------------------


def test_a_tensorrt_plan_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "model.plan").write_bytes(b"ftrt" + bytes(60))
    profile = analyze(tmp_path)
    assert (profile.format, profile.weight_bytes) == (ModelFormat.TENSORRT, 64)
    assert supported(profile) == {RuntimeName.TRITON}
    (tmp_path / "model.plan").write_bytes(b"none")
    assert reason_of(tmp_path) == "bad-plan"


def test_an_openvino_model_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_text('<?xml version="1.0"?><net name="net" version="11"></net>')
    (tmp_path / "model.bin").write_bytes(bytes(99))
    profile = analyze(tmp_path)
    assert (profile.format, profile.weight_bytes) == (ModelFormat.OPENVINO, 99)
    assert profile.details == {"network": "net"}


def test_a_torchscript_archive_is_recognised_but_needs_approval(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        for name in ("code/__torch__.py", "constants.pkl", "data.pkl", "version"):
            archive.writestr(f"model/{name}", b"x")
    assert reason_of(tmp_path) == "pickle"
    profile = analyze(tmp_path, approvals=frozenset({"pickle"}))
    assert profile.details["pickle"] is True
    assert profile.format is ModelFormat.TORCHSCRIPT
    assert supported(profile) == {RuntimeName.TRITON}


# --- diffusers and adapters ---------------------------------------------------------------


def diffusers_folder(folder: Path) -> Path:
    write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "safety_checker": [None, None],
        },
    )
    for name, size in (("unet", 100), ("vae", 20), ("text_encoder", 30)):
        write_json(folder / name / "config.json", {"_class_name": name})
        write_safetensors(folder / name / "model.safetensors", {"w": ("F32", (size,))})
        write_safetensors(folder / name / "model.fp16.safetensors", {"w": ("F16", (size,))})
    return folder


def test_a_pipeline_is_refused_for_what_the_replicas_lack(tmp_path: Path) -> None:
    folder = diffusers_folder(tmp_path / "stable-diffusion")
    without = EngineCatalog(ray_modules=frozenset({"onnxruntime", "torch", "transformers"}))
    refused = {s.runtime.value: s.reason for s in analyze(folder, engines=without).runtimes}
    assert refused == {
        "vllm": "vLLM serves transformers folders, not diffusers",
        "triton": "no Triton backend serves diffusers folders as they are",
        "ray_serve": "the replicas' environment lacks diffusers: "
        "set ray_serve.python to an interpreter that has them",
        "llama_cpp": "llama.cpp serves GGUF files only",
    }
    having = EngineCatalog(ray_modules=without.ray_modules | {"diffusers"})
    assert analyze(folder, engines=having).support(RuntimeName.RAY_SERVE).supported


def test_a_diffusers_folder_is_sized_by_component(tmp_path: Path) -> None:
    profile = analyze(diffusers_folder(tmp_path / "m"))
    assert (profile.format, profile.task) == (ModelFormat.DIFFUSERS, Task.TEXT_TO_IMAGE)
    assert profile.architecture == "StableDiffusionPipeline"
    assert profile.weight_bytes == 600
    assert profile.details["components"]["unet"] == {"class": "UNet2DConditionModel", "bytes": 400}
    ray = profile.support(RuntimeName.RAY_SERVE)
    assert not ray.supported and "diffusers" in ray.reason
    engines = EngineCatalog(ray_modules=frozenset({"torch", "transformers", "diffusers"}))
    assert supported(analyze(tmp_path / "m", engines=engines)) == {RuntimeName.RAY_SERVE}


def test_an_adapter_is_tied_to_its_base(tmp_path: Path) -> None:
    write_json(
        tmp_path / "adapter_config.json",
        {"base_model_name_or_path": "org/base", "r": 8, "target_modules": ["q"]},
    )  # fmt: skip
    assert reason_of(tmp_path) == "missing-weights"
    write_safetensors(tmp_path / "adapter_model.safetensors", {"a": ("F32", (8, 4))})
    profile = analyze(tmp_path)
    assert (profile.format, profile.task) == (ModelFormat.PEFT, Task.ADAPTER)
    assert (profile.base_model, profile.weight_bytes) == ("org/base", 128)
    assert supported(profile) == set()
    assert "base" in profile.support(RuntimeName.VLLM).reason


def test_an_adapter_without_a_base_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "adapter_config.json", {"peft_type": "LORA"})
    assert reason_of(tmp_path) == "missing-base"


def test_an_onnx_export_with_its_configuration_is_onnx(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {**LLAMA, "architectures": ["BertModel"]})
    (tmp_path / "model.onnx").write_bytes(onnx_model())
    profile = analyze(tmp_path)
    assert (profile.format, profile.task) == (ModelFormat.ONNX, Task.EMBEDDING)


def test_an_approved_checkpoint_does_not_hide_its_configuration(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", LLAMA)
    (tmp_path / "optimizer.pt").write_bytes(b"x")
    profile = analyze(tmp_path, approvals=frozenset({"pickle"}))
    assert (profile.format, profile.exact) == (ModelFormat.TRANSFORMERS, False)


def test_a_gguf_beside_a_configuration_is_gguf(tmp_path: Path) -> None:
    write_json(gguf_folder(tmp_path) / "config.json", LLAMA)
    assert analyze(tmp_path).format is ModelFormat.GGUF
    assert analyze(llama_folder(tmp_path / "sub")).format is ModelFormat.TRANSFORMERS
