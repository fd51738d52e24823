"""KServe v2 requests and responses, and the errors for malformed ones."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.http import InferInput, InferRequestedOutput, InferResult
from tritonclient.http._utils import _get_inference_request

from runtimes.ray.replica.tensors import DTYPES, BadRequest, Spec, decode, encode

X = (Spec(name="x", datatype="FP32", shape=(-1, 2)),)
Y = (Spec(name="y", datatype="FP32", shape=(-1, 2)),)


def body(**changes: Any) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]} | changes
    return json.dumps({"inputs": [tensor]}).encode()


def test_nested_and_flat_data_are_the_same() -> None:
    flat = decode(body(), None, X, Y).tensors["x"]
    nested = decode(body(data=[[1.0, 2.0]]), None, X, Y).tensors["x"]
    assert flat.tolist() == nested.tolist() == [[1.0, 2.0]]
    assert flat.dtype == np.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "z"}, "unknown input 'z'"),
        ({"datatype": "INT64"}, "datatype INT64, not FP32"),
        ({"shape": [2]}, "not [-1, 2]"),
        ({"shape": [1, 3], "data": [1, 2, 3]}, "not [-1, 2]"),
        ({"shape": [1, -2]}, "integers of at least 0"),
        ({"shape": "1,2"}, "integers of at least 0"),
        ({"data": [1.0]}, "1 elements, not 2"),
        ({"data": None}, "needs `data`"),
        ({"data": ["a", "b"]}, "does not fit FP32"),
        ({"data": [True, False]}, "does not fit FP32"),
        ({"parameters": {"binary_data_size": 8}}, "binary_data_size must be 0 to 0"),
        ({"parameters": {"shared_memory_region": "r"}}, "shared memory"),
        ({"parameters": []}, "`parameters` must be an object"),
    ],
)
def test_a_wrong_tensor_is_refused_with_what_is_allowed(changes: Any, message: str) -> None:
    with pytest.raises(BadRequest) as refused:
        decode(body(**changes), None, X, Y)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", "missing input x"),
        (b'{"inputs": {}}', "must be a list"),
        (b'{"inputs": [1]}', "with a `name`"),
    ],
)
def test_a_malformed_request_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(BadRequest) as refused:
        decode(raw, None, X, Y)
    assert message in str(refused.value)


def test_integers_beyond_the_datatype_are_refused() -> None:
    spec = (Spec(name="x", datatype="UINT8", shape=(1,)),)
    raw = body(datatype="UINT8", shape=[1], data=[300])
    with pytest.raises(BadRequest, match="does not fit UINT8"):
        decode(raw, None, spec, Y)


def test_unknown_outputs_and_double_inputs_are_refused() -> None:
    document = json.loads(body())
    with pytest.raises(BadRequest, match="unknown output 'q'"):
        decode(json.dumps(document | {"outputs": [{"name": "q"}]}).encode(), None, X, Y)
    document["inputs"] *= 2
    with pytest.raises(BadRequest, match="given twice"):
        decode(json.dumps(document).encode(), None, X, Y)


def test_deep_nesting_does_not_overflow() -> None:
    deep = b'{"inputs": [{"name":"x","datatype":"FP32","shape":[1,2],"data":'
    deep += b"[" * 500 + b"1,2" + b"]" * 500 + b"}]}"
    assert decode(deep, None, X, Y).tensors["x"].tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    ("datatype", "binary"),
    [(datatype, True) for datatype in DTYPES]
    # The official client sends FP16 as bytes only.
    + [(datatype, False) for datatype in DTYPES if datatype != "FP16"],
)
def test_the_official_client_understands_every_datatype(datatype: str, binary: bool) -> None:
    array = np.array([b"a", "ö".encode()] if datatype == "BYTES" else [0, 1]).astype(
        DTYPES[datatype]
    )
    spec = (Spec(name="x", datatype=datatype, shape=(-1,)),)
    tensor = InferInput("x", [2], datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    raw, head = _get_inference_request(
        inputs=[tensor],
        request_id="7",
        outputs=[InferRequestedOutput("x", binary_data=binary)],
        sequence_id=0,
        sequence_start=False,
        sequence_end=False,
        priority=0,
        timeout=None,
        custom_parameters=None,
    )
    request = decode(raw, head, spec, spec)
    answer, length = encode(request, {"x": request.tensors["x"]}, model="m", version="1")
    result = InferResult.from_response_body(answer, header_length=length)
    assert result.get_response()["id"] == "7"
    back = result.as_numpy("x")
    as_text = datatype == "BYTES" and not binary
    assert back.tolist() == (["a", "ö"] if as_text else array.tolist())


@given(st.binary(max_size=200), st.none() | st.integers(-5, 250))
def test_no_bytes_crash_the_decoder(raw: bytes, head: int | None) -> None:
    with pytest.raises(BadRequest):
        decode(raw, head, X, Y)


@given(st.binary(max_size=60))
def test_no_bytes_crash_the_decoder_of_byte_tensors(rest: bytes) -> None:
    spec = (Spec(name="x", datatype="BYTES", shape=(-1,)),)
    parameters = {"binary_data_size": len(rest)}
    tensor = {"name": "x", "datatype": "BYTES", "shape": [2], "parameters": parameters}
    head = json.dumps({"inputs": [tensor]}).encode()
    try:
        assert len(decode(head + rest, len(head), spec, Y).tensors["x"]) == 2
    except BadRequest as refused:
        assert "x" in str(refused)
