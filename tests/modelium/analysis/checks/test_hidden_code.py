"""Code that is not called so, and parts of a model that lie elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from modelium import analysis
from modelium.errors import DropRejected
from tests.modelium.analysis.files import PBTXT, llama_folder, triton_folder


def operations(folder: Path) -> None:
    triton_folder(folder, PBTXT + 'model_operations { op_library_filename: "libx.bin2" }\n')


def versioned_library(folder: Path) -> None:
    (triton_folder(folder) / "1" / "libx.so.1").write_bytes(b"\x7fELF")


def vllm_backend(folder: Path) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text('backend: "vllm"\n')
    (folder / "1" / "model.json").write_text(json.dumps({"model": "x", "trust_remote_code": True}))


def plan(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "model.plan").write_bytes(b"ftrt" + bytes(60))


def plan_of_another_name(folder: Path) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(
        'platform: "tensorrt_plan"\ndefault_model_filename: "weights"\n'
    )
    (folder / "1" / "weights").write_bytes(b"ftrt" + bytes(60))


def vllm_arguments(folder: Path, arguments: object, *, adapters: object = None) -> Path:
    """An entry with weights of its own, beside a version and in it."""
    llama_folder(folder / "weights")
    llama_folder(folder / "1" / "inner")
    (folder / "config.pbtxt").write_text('backend: "vllm"\n')
    (folder / "1" / "model.json").write_text(json.dumps(arguments))
    if adapters is not None:
        (folder / "1" / "multi_lora.json").write_text(json.dumps(adapters))
    return folder


PLAIN = {
    "model": "weights",
    "tokenizer": "inner/",
    "dtype": "bfloat16",
    "quantization": "awq",
    "gpu_memory_utilization": 0.5,
    "tensor_parallel_size": "2",
    "enable_lora": "true",
    "enforce_eager": True,
    "load_format": "safetensors",
    "trust_remote_code": False,
    "distributed_executor_backend": "mp",
    "max_model_len": 4096,
    "hf_overrides": None,
}


def test_plain_arguments_of_vllm_need_no_approval(tmp_path: Path) -> None:
    folder = vllm_arguments(tmp_path / "m", PLAIN, adapters={"a": "weights"})
    profile = analysis.examine(folder).profile
    assert profile is not None and not profile.needs_remote_code


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("model", where) for where in ("/etc", "../m2", "org/name", "weights/../../m2", "~", 7)),
        *(("tokenizer", where) for where in ("/etc", "s3://bucket/x", ["weights"])),
        ("distributed_executor_backend", "evil.Cls"),
        ("kv_connector_module_path", "evil"),
        ("kv_transfer_config", {"kv_connector_module_path": "evil"}),
        ("compilation_config", {"backend": "evil.backend"}),
        ("allowed_local_media_path", "/"),
        ("TRUST_REMOTE_CODE", True),
        ("trust_remote_code", True),
        ("download_dir", "/tmp"),
        ("load_format", "tensorizer"),
        ("tokenizer_mode", "custom"),
        ("quantization", "evil.module"),
        ("max_model_len", {"a": 1}),
        ("max_num_seqs", "os.system"),
        ("dtype", ["auto"]),
    ],
)
def test_any_other_argument_of_vllm_needs_an_approval(
    tmp_path: Path, key: str, value: object
) -> None:
    folder = vllm_arguments(tmp_path / "m", {**PLAIN, key: value})
    with pytest.raises(DropRejected, match=rf"'1/model.json \({key}\)' is no plain ") as refused:
        analysis.examine(folder)
    assert (refused.value.reason, refused.value.approvable) == ("remote-code", True)
    profile = analysis.examine(folder, approvals=frozenset({"remote-code"})).profile
    assert profile is not None and profile.needs_remote_code


def test_adapters_of_vllm_elsewhere_need_an_approval(tmp_path: Path) -> None:
    folder = vllm_arguments(tmp_path / "m", PLAIN, adapters={"a": "weights", "b": "/etc"})
    with pytest.raises(DropRejected, match=r"1/multi_lora.json \(b\)") as refused:
        analysis.examine(folder)
    assert (refused.value.reason, refused.value.approvable) == ("remote-code", True)


@pytest.mark.parametrize(
    "make", [operations, versioned_library, vllm_backend, plan, plan_of_another_name]
)
def test_code_that_is_not_called_so_needs_an_approval(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "m")
    with pytest.raises(DropRejected) as refused:
        analysis.examine(tmp_path / "m")
    assert (refused.value.reason, refused.value.approvable) == ("remote-code", True)


@pytest.mark.parametrize("make", [versioned_library, vllm_backend, plan, plan_of_another_name])
def test_such_a_model_is_known_to_need_it(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "m")
    profile = analysis.examine(tmp_path / "m", approvals=frozenset({"remote-code"})).profile
    assert profile is not None and profile.needs_remote_code


def test_a_library_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    evil = PBTXT + 'model_operations { op_library_filename: "/tmp/evil.so" }\n'
    triton_folder(tmp_path / "m", evil)
    with pytest.raises(DropRejected) as refused:
        analysis.examine(tmp_path / "m", approvals=frozenset({"remote-code"}))
    assert refused.value.reason == "path-traversal"


def test_a_plain_triton_entry_needs_no_approval(tmp_path: Path) -> None:
    profile = analysis.examine(triton_folder(tmp_path / "m")).profile
    assert profile is not None and not profile.needs_remote_code


@pytest.mark.parametrize("path", ["../other", "/etc", "1_Pooling/../../x", 7])
def test_modules_that_leave_the_folder_are_refused(tmp_path: Path, path: object) -> None:
    folder = llama_folder(tmp_path / "m")
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "path": ""}, {"path": path}]))
    with pytest.raises(DropRejected) as refused:
        analysis.examine(folder)
    assert refused.value.reason == "path-traversal"


@pytest.mark.parametrize("path", ["", "1_Pooling", "1_Pooling/"])
def test_modules_in_the_folder_are_not(tmp_path: Path, path: str) -> None:
    folder = llama_folder(tmp_path / "m")
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "path": path}]))
    assert analysis.examine(folder).profile is not None


@pytest.mark.parametrize("text", ["{", '"a"', "[1]", "[" * 5000])
def test_a_list_of_modules_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    folder = llama_folder(tmp_path / "m")
    (folder / "modules.json").write_text(text)
    with pytest.raises(DropRejected) as refused:
        analysis.examine(folder)
    assert refused.value.reason == "bad-json"
