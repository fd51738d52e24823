from __future__ import annotations

from pathlib import Path

import pytest

from modelium.analysis import analyze
from modelium.models import ModelFormat, RuntimeName, TensorSpec
from tests.modelium.analysis.files import (
    onnx_model,
    reason_of,
    supported,
)


def test_an_onnx_file_tells_its_inputs_outputs_and_size(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx_model())
    profile = analyze(tmp_path / "model.onnx")
    assert profile.format is ModelFormat.ONNX
    assert profile.inputs == (TensorSpec(name="X", dtype="FP32", shape=(-1, 8)),)
    assert profile.outputs == (TensorSpec(name="Y", dtype="FP32", shape=(-1, 4)),)
    assert (profile.weight_bytes, profile.parameter_count) == (128, 32)
    assert profile.details["opsets"] == {"": 17}
    assert profile.files == {"model": "model.onnx"}
    assert supported(profile) == {RuntimeName.TRITON, RuntimeName.RAY_SERVE}


def test_a_published_onnx_model_is_read_as_its_own_library_reads_it() -> None:
    import magika
    import onnx

    path = next(Path(magika.__file__).parent.rglob("*.onnx"))
    profile = analyze(path)
    model = onnx.load(path)
    weights = sum(len(t.raw_data) for t in model.graph.initializer)
    assert [i.name for i in profile.inputs] == [i.name for i in model.graph.input]
    assert [o.name for o in profile.outputs] == [o.name for o in model.graph.output]
    assert profile.weight_bytes >= weights > 0


def test_external_data_counts_and_must_be_whole(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx_model(external="w.data"))
    assert reason_of(tmp_path) == "missing-shard"
    (tmp_path / "w.data").write_bytes(bytes(127))
    assert reason_of(tmp_path) == "truncated"
    (tmp_path / "w.data").write_bytes(bytes(128))
    profile = analyze(tmp_path)
    assert profile.weight_bytes == 128
    assert profile.details["external_data"] == ["w.data"]


def test_external_data_hidden_in_a_subgraph_is_found(tmp_path: Path) -> None:
    import onnx
    from onnx import helper

    inner = onnx.load_from_string(onnx_model(external="../../secret")).graph
    del inner.input[:]
    model = onnx.load_from_string(onnx_model())
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=inner))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert reason_of(tmp_path) == "path-traversal"


def test_several_onnx_files_need_a_name(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(onnx_model())
    assert reason_of(tmp_path) == "ambiguous"
    (tmp_path / "model.onnx").write_bytes(onnx_model())
    assert analyze(tmp_path).files == {"model": "model.onnx"}


@pytest.mark.parametrize(
    "data", [b"", b"\x00" * 64, b"\x08\x07", b"x" * 100, b"\x3a\xff\xff\xff\x7f"]
)
def test_what_is_no_onnx_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    assert reason_of(tmp_path) in {"bad-onnx", "bad-protobuf", "truncated"}


def test_graphs_that_nest_without_end_are_refused(tmp_path: Path) -> None:
    def field(number: int, data: bytes) -> bytes:
        length, size = b"", len(data)
        while size >= 0x80:
            length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + data

    graph = b""
    for _ in range(200):
        graph = field(1, field(5, field(6, graph)))
    (tmp_path / "model.onnx").write_bytes(field(7, graph) + field(8, b"\x10\x11"))
    assert reason_of(tmp_path) == "too-deep"


# --- GGUF ---------------------------------------------------------------------------------
