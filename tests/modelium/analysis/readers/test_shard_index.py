"""A shard index names files of its own folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelium.analysis.readers import shard_index as module
from modelium.analysis.readers.shard_index import read_index
from modelium.errors import DropRejected
from tests.modelium.analysis.files import write_json


def index(tmp_path: Path, content: object) -> Path:
    return write_json(tmp_path / "m.index.json", content)


def refused(path: Path) -> tuple[str, str]:
    with pytest.raises(DropRejected) as caught:
        read_index(path, "m")
    return str(caught.value), caught.value.reason


def test_each_file_is_named_once(tmp_path: Path) -> None:
    weight_map = {"a": "x.safetensors", "b": "sub/y.safetensors", "c": "x.safetensors"}
    found = read_index(index(tmp_path, {"weight_map": weight_map}), "m")
    assert found == {"x.safetensors", "sub/y.safetensors"}
    assert read_index(index(tmp_path, {"weight_map": {}}), "m") == frozenset()


@pytest.mark.parametrize(
    ("content", "why", "reason"),
    [
        ({}, "'m' has no weight_map. Copy the index again.", "bad-index"),
        ({"weight_map": ["a"]}, "'m' has no weight_map. Copy the index again.", "bad-index"),
        (
            {"weight_map": {"a": "x", "b": 7}},
            "'m' maps a tensor to something that is not a file name. Copy the index again.",
            "bad-index",
        ),
        (
            {"weight_map": {"a": "x", "b": "../y\n"}},
            "'m' refers to '../y?', outside the folder. "
            "Drop the folder with all of its shards inside it.",
            "path-traversal",
        ),
    ],
)
def test_an_index_that_cannot_be_is_refused(
    tmp_path: Path, content: object, why: str, reason: str
) -> None:
    assert refused(index(tmp_path, content)) == (why, reason)


def test_an_index_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = index(tmp_path, {"weight_map": {}})
    monkeypatch.setattr(module, "MAX_INDEX_BYTES", path.stat().st_size)
    assert read_index(path, "m") == frozenset()
    monkeypatch.setattr(module, "MAX_INDEX_BYTES", path.stat().st_size - 1)
    assert refused(path)[1] == "file-too-large"
