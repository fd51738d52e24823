from __future__ import annotations

from pathlib import Path

from modelium.analysis import analyze
from modelium.models import ModelFormat, RuntimeName, Task
from tests.modelium.analysis.files import (
    reason_of,
    supported,
    write_json,
    write_safetensors,
)


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
