from __future__ import annotations

import zipfile
from pathlib import Path

from modelium.analysis import analyze
from modelium.models import ModelFormat, RuntimeName
from tests.modelium.analysis.files import (
    reason_of,
    supported,
)


def test_a_tensorrt_plan_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "model.plan").write_bytes(b"ftrt" + bytes(60))
    profile = analyze(tmp_path, approvals=frozenset({"remote-code"}))
    assert (profile.format, profile.weight_bytes) == (ModelFormat.TENSORRT, 64)
    assert supported(profile) == {RuntimeName.TRITON}
    (tmp_path / "model.plan").write_bytes(b"none")
    assert reason_of(tmp_path, approvals=frozenset({"remote-code"})) == "bad-plan"


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
