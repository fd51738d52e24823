"""When a drop counts as whole; half-written ones are told apart and nothing raises."""

from pathlib import Path

import pytest

from modelium.analysis import is_complete
from tests.modelium.analysis.files import (
    gguf_folder,
    llama_folder,
    onnx_model,
    triton_folder,
    write_json,
)


def test_whole_folders_are_complete(tmp_path: Path) -> None:
    assert is_complete(llama_folder(tmp_path / "one")) is None
    assert is_complete(llama_folder(tmp_path / "many", shards=3)) is None
    assert is_complete(gguf_folder(tmp_path / "gguf")) is None
    assert is_complete(triton_folder(tmp_path / "triton")) is None


def test_a_bare_configuration_is_complete(tmp_path: Path) -> None:
    assert is_complete(write_json(tmp_path / "m" / "config.json", {"a": 1}).parent) is None


def test_an_empty_or_missing_folder_is_not(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    assert is_complete(tmp_path / "m") == "the folder is empty"
    assert is_complete(tmp_path / "gone") is not None


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors.part",
        "model.safetensors.incomplete",
        "x.tmp",
        "x.crdownload",
        "x.aria2",
        "config.json~",
        ".model.safetensors.Xy12Ab",
        ".cache/huggingface/download/abc.incomplete",
    ],
)
def test_partial_downloads_are_seen(tmp_path: Path, name: str) -> None:
    folder = llama_folder(tmp_path / "m")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"x")
    assert is_complete(folder) == f"{name} is a partial download"


def test_a_hub_clients_finished_markers_do_not_count(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    marker = folder / ".cache" / "huggingface" / "download" / "x.lock.tmp"
    marker.parent.mkdir(parents=True)
    marker.touch()
    assert is_complete(folder) is None


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors" in (is_complete(folder) or "")


def test_a_missing_shard_is_named_without_an_index(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m", shards=3)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model-00003-of-00003.safetensors").unlink()
    assert is_complete(folder) == "model-00003-of-00003.safetensors is missing"


def test_shards_that_claim_absurd_counts_cost_nothing(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    for index in range(50):
        (folder / f"m-{index:05}-of-99999.gguf").write_bytes(b"")
    assert is_complete(folder) is not None


@pytest.mark.parametrize("keep", [0, 4, 9, 200, -1])
def test_a_short_file_is_seen_wherever_it_ends(tmp_path: Path, keep: int) -> None:
    folder = llama_folder(tmp_path / "m")
    file = folder / "model.safetensors"
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.truncate(keep if keep >= 0 else size + keep)
    assert (is_complete(folder) or "").startswith("model.safetensors")


def test_a_short_gguf_is_seen(tmp_path: Path) -> None:
    folder = gguf_folder(tmp_path / "m")
    with (folder / "model.gguf").open("r+b") as opened:
        opened.truncate((folder / "model.gguf").stat().st_size - 1)
    missing = "model.gguf: the file ends before its last tensor. Download or convert it again."
    assert is_complete(folder) == missing


def test_a_short_onnx_is_seen(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.onnx").write_bytes(onnx_model()[:-5])
    assert "model.onnx: it is cut off or damaged" in (is_complete(tmp_path / "m") or "")


def test_missing_external_data_is_seen(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.onnx").write_bytes(onnx_model(external="weights.data"))
    assert is_complete(tmp_path / "m") == "weights.data of model.onnx is missing"
    (tmp_path / "m" / "weights.data").write_bytes(bytes(100))
    assert is_complete(tmp_path / "m") == "weights.data of model.onnx has 100 of 128 bytes"
    (tmp_path / "m" / "weights.data").write_bytes(bytes(128))
    assert is_complete(tmp_path / "m") is None


@pytest.mark.parametrize("content", [b"", b'{"architectures": ["Ll'])
def test_a_half_written_configuration_is_not_whole(tmp_path: Path, content: bytes) -> None:
    folder = llama_folder(tmp_path / "m")
    (folder / "config.json").write_bytes(content)
    assert (is_complete(folder) or "").startswith("config.json is not valid JSON")


@pytest.mark.parametrize("content", [b'[{"name": "pairs.jsonl.gz"}]', b'{"a": 1, "a": 2}'])
def test_a_configuration_of_another_kind_is_whole(tmp_path: Path, content: bytes) -> None:
    """sentence-transformers' own folders carry a list in data_config.json."""
    folder = llama_folder(tmp_path / "m")
    (folder / "data_config.json").write_bytes(content)
    assert is_complete(folder) is None


def test_a_half_written_index_is_not_whole(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m", shards=2)
    index = folder / "model.safetensors.index.json"
    index.write_bytes(index.read_bytes()[:40])
    assert "model.safetensors.index.json is not valid JSON" in (is_complete(folder) or "")


def test_what_is_unsafe_counts_as_complete_so_that_it_is_refused(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    (folder / "x").symlink_to("/etc/passwd")
    assert is_complete(folder) is None


def test_a_dropped_file_is_looked_at_alone(tmp_path: Path) -> None:
    (tmp_path / "other.part").touch()
    (tmp_path / "model.onnx").write_bytes(onnx_model())
    assert is_complete(tmp_path / "model.onnx") is None
    (tmp_path / "model.zip.part").touch()
    assert is_complete(tmp_path / "model.zip.part") is not None
