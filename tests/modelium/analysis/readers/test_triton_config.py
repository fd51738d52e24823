"""What a Triton configuration has the server run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelium.analysis.readers.folder import Folder
from modelium.analysis.readers.triton_config import (
    CONFIG,
    MAX_CONFIG_BYTES,
    parse_config,
    triton_arguments,
    triton_code,
)
from modelium.errors import DropRejected


def code(root: Path, text: str) -> list[str]:
    (root / CONFIG).write_text(text)
    return triton_code(Folder(root))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ('backend: "onnxruntime"', []),
        ('backend: "python"', ["config.pbtxt (backend python)"]),
        ('backend: "dali"', ["config.pbtxt (backend dali)"]),
        ('platform: "tensorrt_plan"', ["config.pbtxt (backend tensorrt_plan)"]),
        ('platform: "onnxruntime_onnx"', []),
        (
            'platform: "tensorrt_plan" backend: "tensorrt"',
            ["config.pbtxt (backend tensorrt)"],
        ),
        (
            'model_operations { op_library_filename: "libx" }',
            ["config.pbtxt (op_library_filename)"],
        ),
        ('runtime: "libtriton_x.so"', ["config.pbtxt (runtime)"]),
        ('runtime: "../x.so"', []),
        (
            'parameters { key: "EXECUTION_ENV_PATH" '
            'value { string_value: "$$TRITON_MODEL_DIRECTORY/env" } }',
            ["config.pbtxt (EXECUTION_ENV_PATH)"],
        ),
        ('parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/env" } }', []),
        (
            'backend: "python" runtime: "x" model_operations { op_library_filename: "y" }',
            [
                "config.pbtxt (backend python)",
                "config.pbtxt (op_library_filename)",
                "config.pbtxt (runtime)",
            ],
        ),
    ],
)
def test_code_that_a_configuration_names(tmp_path: Path, text: str, found: list[str]) -> None:
    assert code(tmp_path, text) == found


def test_without_a_configuration_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"trust_remote_code": true}')
    assert triton_code(Folder(tmp_path)) == []


def test_arguments_of_vllm_may_name_code(tmp_path: Path) -> None:
    for version, arguments in (
        ("1", {"trust_remote_code": True, "model": "weights", "hf_overrides": {"a": 1}}),
        ("2", {"trust_remote_code": False, "worker_cls": "", "model": "weights"}),
        ("3", {"worker_cls": "x.Y"}),
        ("weights", {}),
    ):
        (tmp_path / version).mkdir()
        (tmp_path / version / "model.json").write_text(json.dumps(arguments))
    (tmp_path / "4").mkdir()
    (tmp_path / "4" / "other.json").write_text("[]")
    found = ["1/model.json (hf_overrides, trust_remote_code)", "3/model.json (worker_cls)"]
    assert code(tmp_path, 'backend: "vllm"') == found
    assert triton_arguments(Folder(tmp_path)) == found
    assert code(tmp_path, "") == found, "the server may choose the backend by a file's name"
    assert code(tmp_path, 'backend: "onnxruntime"') == []


def test_a_configuration_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text('name: "x"'.ljust(MAX_CONFIG_BYTES))
    assert parse_config(Folder(tmp_path)).name == "x"
    (tmp_path / CONFIG).write_text('name: "x"'.ljust(MAX_CONFIG_BYTES + 1))
    with pytest.raises(DropRejected) as caught:
        parse_config(Folder(tmp_path))
    assert (str(caught.value), caught.value.reason) == (
        "config.pbtxt is larger than 1 MiB. Replace it with the model's own file.",
        "file-too-large",
    )


@pytest.mark.parametrize("data", [b"name {", b"\xff", b"name: 7", b"unknown: 7"])
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / CONFIG).write_bytes(data)
    with pytest.raises(DropRejected) as caught:
        triton_code(Folder(tmp_path))
    assert str(caught.value).startswith("config.pbtxt cannot be parsed: ")
    assert caught.value.reason == "bad-triton"
