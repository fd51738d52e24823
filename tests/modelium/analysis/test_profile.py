from __future__ import annotations

from pathlib import Path

from modelium.analysis import analyze
from modelium.models import ModelFormat, Task
from tests.modelium.analysis.files import (
    LLAMA,
    gguf_folder,
    llama_folder,
    onnx_model,
    write_json,
)


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
