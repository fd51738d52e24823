"""Entries of Triton's model repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelium.errors import FailureKind, LoadFailed, NeedsApproval
from modelium.models import ModelFormat
from runtimes.triton.repository import SeparateRepository
from tests.runtimes.requests import profile, request
from tests.runtimes.triton.drops import drop, onnx, parse


def test_a_drop_becomes_an_entry_with_all_files_beside_the_graph(tmp_path: Path) -> None:
    source = drop(tmp_path / "m", model_onnx="graph", weights_data="external", readme_md="hi")
    repository = SeparateRepository(root=tmp_path / "triton")
    entry = repository.add(request(source, profile=onnx(), version=3)).path
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
    entry = SeparateRepository(root=tmp_path / "triton").add(request(source, profile=triton)).path
    assert (entry / "2/model.onnx").read_text() == "two"
    assert parse((entry / "config.pbtxt").read_text()).name == "m"
    assert 'name: "theirs"' in (source / "config.pbtxt").read_text(), "the drop stays as it was"


def test_python_code_needs_approval_and_its_file(tmp_path: Path) -> None:
    triton = profile(ModelFormat.TRITON, architecture="python", files={"model": "1/model.py"})
    source = drop(tmp_path / "m", config_pbtxt='backend: "python"', **{"1__model_py": "code"})
    repository = SeparateRepository(root=tmp_path / "triton")
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
        SeparateRepository(root=tmp_path / "triton").add(request(source, profile=onnx()))
    assert failure.value.kind == FailureKind.BAD_FILES
    assert list((tmp_path / "triton").iterdir()) == []


def test_an_entry_of_the_users_is_never_overwritten_or_removed(tmp_path: Path) -> None:
    theirs = drop(tmp_path / "triton/m", **{"1__model_onnx": "theirs"})
    repository = SeparateRepository(root=tmp_path / "triton")
    source = drop(tmp_path / "m", model_onnx="ours")
    with pytest.raises(LoadFailed, match="not created by Modelium"):
        repository.add(request(source, profile=onnx()))
    repository.remove("m")
    assert (theirs / "1/model.onnx").read_text() == "theirs"


def test_links_out_of_a_drop_are_not_followed(tmp_path: Path) -> None:
    secret = drop(tmp_path / "elsewhere", secret_txt="secret")
    source = drop(tmp_path / "m", model_onnx="graph")
    (source / "link.txt").symlink_to(secret / "secret.txt")
    (source / "folder").symlink_to(secret)
    entry = SeparateRepository(root=tmp_path / "triton").add(request(source, profile=onnx())).path
    assert sorted(path.name for path in (entry / "1").iterdir()) == ["model.onnx"]
