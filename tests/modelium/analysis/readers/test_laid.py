"""What Modelium lays beside a model's files is left out of its analysis, and nothing else is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from modelium.analysis import analyze, digest, inspect_files, is_complete, unlay
from modelium.analysis.readers.folder import Folder
from modelium.analysis.readers.laid import CONFIG, MARKER, Laid, read_marker
from modelium.errors import DropRejected
from tests.samples import tiny_onnx


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny_onnx(tmp_path / "m")
    return tmp_path / "m"


def lay(model: Path) -> None:
    """As Triton's driver does: the marker, then a version folder of links and a configuration."""
    Laid(version=1, config=True, folder="1").write(model)
    (model / "1").mkdir()
    os.link(model / "model.onnx", model / "1" / "model.onnx")
    (model / CONFIG).write_text('backend: "onnxruntime"')


def names(folder: Path) -> list[str]:
    return [entry.name for entry in Folder(folder).files]


def test_digest_and_analysis_are_those_of_the_drop(model: Path) -> None:
    files, before, profile = names(model), digest(model), analyze(model)
    lay(model)
    assert (names(model), digest(model), analyze(model)) == (files, before, profile)
    assert is_complete(model) is None
    unlay(model)
    assert sorted(path.name for path in model.rglob("*")) == files


@pytest.mark.parametrize("copied", [shutil.copytree, shutil.move])
def test_a_repository_that_is_put_back_from_a_backup_is_the_same(
    model: Path, tmp_path: Path, copied: object
) -> None:
    before = digest(model)
    lay(model)
    copied(model, tmp_path / "copy")  # type: ignore[operator]
    assert digest(tmp_path / "copy") == before
    unlay(tmp_path / "copy")
    assert names(tmp_path / "copy") == ["model.onnx"]
    assert not (tmp_path / "copy" / "1").exists()


def test_a_marker_hides_no_file_that_differs_from_its_original(model: Path) -> None:
    lay(model)
    (model / "1" / "weights.bin").write_bytes(b"a pickle")
    (model / "1" / "model.onnx").unlink()
    (model / "1" / "model.onnx").write_bytes(b"another model")
    assert names(model) == ["1/model.onnx", "1/weights.bin", "model.onnx"]
    with pytest.raises(DropRejected, match="pickle"):
        inspect_files(model)
    unlay(model)
    assert names(model) == ["1/model.onnx", "1/weights.bin", "model.onnx"], "nothing is lost"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 1, "config": true, "folder": "..", "source": ""}',
        '{"version": 1, "config": true, "folder": "/etc", "source": ""}',
        '{"version": 1, "config": true, "folder": "1", "source": "../other"}',
        '{"version": 1, "config": true, "folder": "1", "source": "/etc"}',
        '{"version": 1, "config": true, "folder": "1", "source": "1"}',
        "[" * 4000,
    ],
)
def test_an_invalid_marker_says_nothing(model: Path, text: str) -> None:
    (model / MARKER).write_text(text)
    (model / CONFIG).write_text("x")
    assert read_marker(model) is None
    assert names(model) == [CONFIG, "model.onnx"]
    unlay(model)
    assert sorted(path.name for path in model.iterdir()) == [CONFIG, "model.onnx"]


def test_a_link_for_a_marker_is_not_followed(model: Path, tmp_path: Path) -> None:
    lay(model)
    (model / MARKER).rename(tmp_path / "elsewhere")
    (model / MARKER).symlink_to(tmp_path / "elsewhere")
    assert read_marker(model) is None
    unlay(model)
    assert (tmp_path / "elsewhere").exists()
    assert (model / CONFIG).exists()


def test_a_version_folder_that_is_a_link_is_left_alone(model: Path, tmp_path: Path) -> None:
    tiny_onnx(tmp_path / "other")
    Laid(version=1, folder="1").write(model)
    (model / "1").symlink_to(tmp_path / "other")
    unlay(model)
    assert (tmp_path / "other" / "model.onnx").exists()


def test_a_pipe_is_not_read(model: Path) -> None:
    lay(model)
    os.mkfifo(model / "1" / "pipe")
    os.mkfifo(model / "pipe")
    unlay(model)
    assert (model / "1" / "pipe").exists()
