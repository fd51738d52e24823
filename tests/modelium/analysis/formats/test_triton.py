from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from modelium.analysis import EngineCatalog, analyze
from modelium.models import ModelFormat, RuntimeName, TensorSpec
from tests.modelium.analysis.files import (
    PBTXT,
    reason_of,
    supported,
    triton_folder,
)

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
