"""What is read of an ONNX file, message by message, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelium.analysis.readers import onnx_graph as module
from modelium.analysis.readers.onnx_graph import External, Graph, read_graph
from modelium.errors import DropRejected
from modelium.models import TensorSpec
from tests.modelium.analysis.readers.protobuf import field, tag, varint

FLOAT, INT8, STRING, INT4, INT64, INT2 = 1, 3, 8, 22, 7, 26
OPSET = field(8, field(1, "") + field(2, 17))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "m.onnx"


def graph_of(file: Path, *graph: bytes, beside: bytes = OPSET) -> Graph:
    """The model with a graph of these fields, and ``beside`` it."""
    file.write_bytes(field(7, b"".join(graph)) + beside)
    return read_graph(file, "m.onnx")


def refused(file: Path, *graph: bytes, beside: bytes = OPSET) -> tuple[str, str]:
    with pytest.raises(DropRejected) as caught:
        graph_of(file, *graph, beside=beside)
    return str(caught.value), caught.value.reason


def bad(why: str) -> str:
    return f"m.onnx: {why}. Export or copy it again."


def tensor(*dims: int, kind: int = FLOAT, name: str = "W", more: bytes = b"") -> bytes:
    return b"".join(field(1, n) for n in dims) + field(2, kind) + field(8, name) + more


def weight(*dims: int, kind: int = FLOAT, name: str = "W", more: bytes = b"") -> bytes:
    return field(5, tensor(*dims, kind=kind, name=name, more=more))


def entry(key: str, value: str) -> bytes:
    return field(13, field(1, key) + field(2, value))


def value(name: str, *dims: bytes, kind: int = FLOAT) -> bytes:
    """A ``ValueInfoProto``; each of ``dims`` is a ``Dimension``."""
    shape = b"".join(field(1, dim) for dim in dims)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, shape)))


# --- the model ------------------------------------------------------------------------------------


def test_all_that_is_read_of_a_model(file: Path) -> None:
    node = field(7, "com.microsoft")
    found = graph_of(
        file,
        field(1, node),
        field(1, b""),
        weight(8, 4),
        weight(10, kind=INT8, name="b"),
        field(11, value("X", field(2, "batch"), field(1, 8))),
        field(11, value("W", field(1, 8))),
        field(12, value("Y", field(1, 3), kind=INT64)),
        beside=field(2, "p" * 201) + OPSET + field(8, field(1, "ai.onnx.ml") + field(2, 3)),
    )
    assert found == Graph(
        inputs=[TensorSpec(name="X", dtype="FP32", shape=(-1, 8))],
        outputs=[TensorSpec(name="Y", dtype="INT64", shape=(3,))],
        opsets={"": 17, "ai.onnx.ml": 3},
        producer="p" * 200,
        initializers={"W", "b"},
        bytes_by_dtype={"F32": 128, "I8": 10},
        parameters=42,
        nodes=2,
        domains={"com.microsoft"},
    )


NO_MODEL = "m.onnx is not an ONNX model (no graph or no opset). Export it again."


def test_a_model_has_one_graph_and_an_opset(file: Path) -> None:
    assert refused(file, beside=b"") == (NO_MODEL, "bad-onnx")
    assert refused(file, beside=OPSET + field(7, b"")) == (NO_MODEL, "bad-onnx")
    file.write_bytes(OPSET)
    with pytest.raises(DropRejected) as caught:
        read_graph(file, "m.onnx")
    assert (str(caught.value), caught.value.reason) == (NO_MODEL, "bad-onnx")


def test_an_opset_without_a_domain_is_that_of_onnx(file: Path) -> None:
    assert graph_of(file, beside=field(8, field(2, 21))).opsets == {"": 21}
    assert graph_of(file, beside=field(8, field(1, "x"))).opsets == {"x": 0}


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(DropRejected) as caught:
        read_graph(tmp_path, "m.onnx")
    assert (str(caught.value), caught.value.reason) == (
        "m.onnx cannot be read: IsADirectoryError. Check its permissions.",
        "unreadable",
    )


@pytest.mark.parametrize(
    "beside", [field(8, 1), field(25, 1), field(25, field(7, 1)), tag(8, 5) + bytes(4)]
)
def test_a_number_in_place_of_a_message_is_refused(file: Path, beside: bytes) -> None:
    why, reason = refused(file, beside=OPSET + beside)
    assert (why.partition(". ")[0][-16:], reason) == ("is not a message", "bad-onnx")


@pytest.mark.parametrize("number", [1, 5, 11, 12, 15])
def test_a_number_in_place_of_a_part_of_the_graph_is_refused(file: Path, number: int) -> None:
    why = bad(f"field {number} is not a message")
    assert refused(file, field(number, 1)) == (why, "bad-onnx")


# --- tensors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "dims", "size", "parameters"),
    [
        (FLOAT, (), 4, 1),
        (FLOAT, (3, 5), 60, 15),
        (FLOAT, (3, 0), 0, 0),
        (10, (3,), 6, 3),
        (11, (3,), 24, 3),
        (16, (3,), 6, 3),
        (2, (3,), 3, 3),
        (INT8, (3,), 3, 3),
        (17, (3,), 3, 3),
        (INT4, (3,), 2, 3),
        (24, (3,), 3, 3),
        (INT2, (5,), 2, 5),
        (INT64, (3,), 24, 0),
        (9, (3,), 3, 0),
        (15, (3,), 48, 0),
        (4, (3,), 6, 0),
    ],
)
def test_a_tensor_takes_whole_bytes_and_floats_and_small_integers_are_parameters(
    file: Path, kind: int, dims: tuple[int, ...], size: int, parameters: int
) -> None:
    found = graph_of(file, weight(*dims, kind=kind, more=field(9, bytes(100))))
    name = module.TYPES[kind][2]
    assert (found.bytes_by_dtype, found.parameters) == ({name: size}, parameters)


def test_the_bytes_of_one_type_add_up(file: Path) -> None:
    found = graph_of(file, weight(3, name="a"), weight(4, name="b"), weight(2, kind=INT64))
    assert found.bytes_by_dtype == {"F32": 28, "I64": 16}
    assert (found.parameters, found.initializers) == (7, {"a", "b", "W"})


def test_texts_take_what_they_are_long(file: Path) -> None:
    texts = field(6, "abc") + field(6, "") + field(6, "de")
    found = graph_of(file, weight(3, kind=STRING, more=texts))
    assert (found.bytes_by_dtype, found.parameters) == ({"STRING": 5}, 0)


def test_dimensions_may_be_packed(file: Path) -> None:
    packed = field(1, varint(3) + varint(300))
    assert graph_of(file, weight(2, more=packed + field(9, bytes(900)))).parameters == 1800


def test_a_tensor_has_a_shape_and_a_known_type(file: Path) -> None:
    shape = (bad("a tensor has an invalid shape"), "bad-onnx")
    assert refused(file, weight(-1)) == shape
    assert refused(file, weight(2**48, 0)) == shape
    assert graph_of(file, weight(2**48 - 1, 0)).parameters == 0
    assert refused(file, weight(*[1] * 65)) == shape
    assert graph_of(file, weight(*[1] * 64)).parameters == 1
    packed = field(1, b"\x01" * 65)
    assert refused(file, weight(more=packed)) == (
        bad("a tensor has more than 64 dimensions"),
        "absurd-counts",
    )
    for kind in (0, 27):
        assert refused(file, weight(1, kind=kind)) == (
            bad(f"a tensor has the unknown type {kind}"),
            "bad-onnx",
        )
    assert refused(file, field(5, field(1, 1))) == (
        bad("a tensor has the unknown type 0"),
        "bad-onnx",
    )


def test_a_tensor_may_be_eight_times_larger_than_the_file_and_no_more(file: Path) -> None:
    """One that a repeated value fills is."""
    size = len(field(7, weight(128, kind=INT8)) + OPSET)
    assert graph_of(file, weight(8 * size, kind=INT8)).parameters == 8 * file.stat().st_size
    assert refused(file, weight(8 * size + 1, kind=INT8)) == (
        bad("a tensor is larger than the file"),
        "absurd-counts",
    )


# --- external data --------------------------------------------------------------------------------


def test_external_data_is_where_its_entries_say(file: Path) -> None:
    full = entry("location", "w/a") + entry("offset", "4096") + entry("length", "7")
    found = graph_of(
        file,
        weight(2**40, more=full),
        weight(3, name="b", more=entry("location", "b")),
        weight(3, name="c", more=entry("offset", "") + entry("location", "c") + entry("sha", "x")),
        weight(3, name="d", more=field(13, field(9, 1)) + entry("location", "d")),
    )
    assert found.external == [
        External("w/a", 4096, 7),
        External("b", 0, 12),
        External("c", 0, 12),
        External("d", 0, 12),
    ]
    assert found.bytes_by_dtype == {"F32": 2**42 + 36}


@pytest.mark.parametrize("location", ["", "../w", "/w", "a/../../w"])
def test_external_data_stays_beside_the_model(file: Path, location: str) -> None:
    assert refused(file, weight(1, more=entry("location", location))) == (
        f"m.onnx refers to external data at {location!r}, outside its folder. "
        "Export it with its external data beside it.",
        "path-traversal",
    )
    assert refused(file, weight(1, more=entry("offset", "0")))[1] == "path-traversal"


@pytest.mark.parametrize("key", ["offset", "length"])
def test_offset_and_length_are_numbers(file: Path, key: str) -> None:
    at = entry("location", "w")
    assert refused(file, weight(1, more=at + entry(key, "x"))) == (
        bad("the offset or length of external data is not a number"),
        "bad-onnx",
    )
    assert refused(file, weight(1, more=at + entry(key, "-1"))) == (
        bad("external data has an invalid offset or length"),
        "bad-onnx",
    )
    found = graph_of(file, weight(0, more=at + entry(key, "0")))
    assert found.external == [External("w", 0, 0)]


def test_external_tensors_are_counted(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EXTERNAL", 2)
    outside = weight(1, more=entry("location", "w"))
    assert len(graph_of(file, outside, outside).external) == 2
    assert refused(file, outside, outside, outside)[1] == "bad-onnx"


# --- graphs in graphs -----------------------------------------------------------------------------


def in_node(*attribute: bytes) -> bytes:
    """A node with one attribute."""
    return field(1, field(5, b"".join(attribute)))


HIDDEN = tensor(1, more=entry("location", "../secret"))


@pytest.mark.parametrize(
    "part",
    [
        field(15, field(1, HIDDEN)),
        field(15, field(2, HIDDEN)),
        in_node(field(5, HIDDEN)),
        in_node(field(10, HIDDEN)),
        in_node(field(22, field(1, HIDDEN))),
        in_node(field(23, field(2, HIDDEN))),
        in_node(field(6, field(5, HIDDEN))),
        in_node(field(11, field(15, field(1, HIDDEN)))),
        in_node(field(6, in_node(field(5, HIDDEN)))),
    ],
)
def test_tensors_are_found_wherever_they_are(file: Path, part: bytes) -> None:
    assert refused(file, part)[1] == "path-traversal"


def test_tensors_in_functions_are_found(file: Path) -> None:
    function = field(25, field(7, field(5, field(5, HIDDEN))))
    assert refused(file, beside=OPSET + function)[1] == "path-traversal"


def test_other_fields_are_passed_over(file: Path) -> None:
    """Such as documentation, whatever its bytes would mean elsewhere."""
    node = field(5, field(5, HIDDEN))
    plain = graph_of(file, field(1, b""), weight(more=entry("location", "w")))
    opset = field(8, field(1, "") + field(2, 17) + field(3, 99))
    located = field(13, field(1, "location") + field(2, "w") + field(3, "../secret"))
    found = graph_of(
        file,
        field(1, field(9, "x") + field(5, field(9, field(5, HIDDEN) + field(1, HIDDEN)))),
        weight(more=located),
        field(15, field(3, HIDDEN)),
        field(9, HIDDEN),
        field(99, value("x")),
        beside=opset + field(99, field(7, node)) + field(25, field(8, node)),
    )
    assert found == plain


def test_tensors_of_inner_graphs_count_and_are_no_initializers_of_the_model(file: Path) -> None:
    inner = weight(5, name="X") + field(11, value("i")) + field(12, value("o")) + field(1, b"")
    found = graph_of(
        file,
        field(11, value("X")),
        in_node(field(6, inner), field(5, tensor(2, name="X"))),
        field(15, field(1, tensor(3, name="X"))),
        beside=OPSET + field(25, field(7, field(7, "mine"))),
    )
    assert [spec.name for spec in found.inputs] == ["X"]
    assert (found.outputs, found.initializers) == ([], set())
    assert (found.parameters, found.nodes, found.domains) == (10, 3, {"mine"})


def nested(depth: int) -> bytes:
    """What a graph holds that has ``depth`` others inside of each other."""
    return in_node(field(6, nested(depth - 1))) if depth else b""


def test_graphs_nest_sixteen_deep_and_fifteen_in_a_function(file: Path) -> None:
    why = (bad("graphs are nested more than 16 deep"), "too-deep")
    assert graph_of(file, nested(16)).nodes == 16
    assert refused(file, nested(17)) == why
    function = field(25, field(7, field(5, field(6, nested(14)))))
    assert graph_of(file, beside=OPSET + function).nodes == 15
    function = field(25, field(7, field(5, field(6, nested(15)))))
    assert refused(file, beside=OPSET + function) == why


# --- inputs and outputs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("info", "spec"),
    [
        (value("X"), ("X", "FP32", ())),
        (value("X", field(1, 0), field(1, 2**48 - 1)), ("X", "FP32", (0, 2**48 - 1))),
        (value("X", field(1, 2**48), field(1, -1)), ("X", "FP32", (-1, -1))),
        (value("X", b"", field(2, "n"), field(1, "8")), ("X", "FP32", (-1, -1, -1))),
        (value("X", field(3, 7) + field(1, 5)), ("X", "FP32", (5,))),
        (value("X") + field(3, b"doc"), ("X", "FP32", ())),
        (field(2, field(1, field(1, 1) + field(3, field(1, b"")))), ("", "FP32", ())),
        (field(2, field(4, field(1, 1))), ("", "UNSUPPORTED", ())),
        (value("X", kind=99), ("X", "UNSUPPORTED", ())),
        (field(1, "X"), ("X", "BYTES", (-1,))),
        (field(1, "X") + field(2, b""), ("X", "UNSUPPORTED", ())),
        (field(1, "X") + field(2, field(4, b"")), ("X", "UNSUPPORTED", ())),
        (field(1, "X") + field(2, field(1, b"")), ("X", "UNSUPPORTED", ())),
        (field(1, "X") + field(2, field(1, field(1, 10))), ("X", "FP16", ())),
        (field(2, field(1, field(2, field(2, b"") + field(1, b"")))), ("", "UNSUPPORTED", (-1,))),
    ],
)
def test_name_type_and_shape_of_an_input(
    file: Path, info: bytes, spec: tuple[str, str, tuple[int, ...]]
) -> None:
    name, dtype, shape = spec
    expected = [TensorSpec(name=name, dtype=dtype, shape=shape)]
    found = graph_of(file, field(11, info), field(12, info))
    assert (found.inputs, found.outputs) == (expected, expected)
