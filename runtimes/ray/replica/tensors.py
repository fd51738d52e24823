"""KServe v2 requests and responses, as JSON and with the binary tensor extension (no I/O here).

Source: the Open Inference Protocol, and Triton's ``extension_binary_data``, which
`tritonclient.http` uses by default.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

DTYPES: dict[str, type] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}


class BadRequest(ValueError):
    """An error of the client; the message says what is allowed."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One named input or output; -1 marks a dynamic dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def describe(self) -> dict[str, Any]:
        """Return the form that the metadata route shows."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}

    def check(self, datatype: str, shape: tuple[int, ...]) -> None:
        """Raise `BadRequest` unless the input accepts a tensor of that type and shape."""
        if datatype != self.datatype:
            raise BadRequest(f"input {self.name!r} has datatype {datatype}, not {self.datatype}")
        fits = len(shape) == len(self.shape) and all(
            want in (-1, have) for want, have in zip(self.shape, shape, strict=True)
        )
        if not fits:
            raise BadRequest(
                f"input {self.name!r} has shape {list(shape)}, not {list(self.shape)} (-1: any)"
            )


@dataclass(frozen=True, kw_only=True)
class Request:
    """A decoded inference request."""

    id: str | None
    tensors: dict[str, Array]
    outputs: dict[str, bool]
    """Requested output → whether it is returned as bytes. Empty: all outputs, per ``binary``."""
    binary: bool
    parameters: dict[str, Any]


def read_object(body: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        BadRequest: it is not one, or is nested too deep.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise BadRequest(f"the request is not JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise BadRequest("the request must be a JSON object")
    return document


def decode(
    body: bytes, header_bytes: int | None, inputs: tuple[Spec, ...], outputs: tuple[Spec, ...]
) -> Request:
    """Decode an inference request.

    ``header_bytes`` is the value of ``Inference-Header-Content-Length``, None without the header.

    Raises:
        BadRequest: it is malformed, or does not match ``inputs`` and ``outputs``.
    """
    if header_bytes is not None and not 0 <= header_bytes <= len(body):
        raise BadRequest(f"Inference-Header-Content-Length must be 0 to {len(body)}")
    document = read_object(body if header_bytes is None else body[:header_bytes])
    rest = memoryview(b"" if header_bytes is None else body[header_bytes:])
    specs = {spec.name: spec for spec in inputs}
    tensors: dict[str, Array] = {}
    for entry in _entries(document, "inputs"):
        name = entry["name"]
        if name not in specs:
            raise BadRequest(f"unknown input {name!r}: the model has {', '.join(specs)}")
        if name in tensors:
            raise BadRequest(f"input {name!r} is given twice")
        shape = _shape(entry)
        specs[name].check(str(entry.get("datatype")), shape)
        tensors[name], rest = _tensor(entry, specs[name].datatype, shape, rest)
    if missing := [name for name in specs if name not in tensors]:
        raise BadRequest(f"missing input {', '.join(missing)}")
    if len(rest):
        raise BadRequest(f"{len(rest)} bytes after the last input's data")
    parameters = _parameters(document)
    binary = bool(parameters.get("binary_data_output", False))
    return Request(
        id=document.get("id"),
        tensors=tensors,
        outputs=_wanted(document, {spec.name for spec in outputs}, binary),
        binary=binary,
        parameters=parameters,
    )


def encode(
    request: Request, outputs: dict[str, Array], *, model: str, version: str
) -> tuple[bytes, int | None]:
    """Encode a response: its body and, if part of it is binary, the length of the JSON header."""
    binary_of = request.outputs or dict.fromkeys(outputs, request.binary)
    entries: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, binary in binary_of.items():
        array = outputs[name]
        entry: dict[str, Any] = {
            "name": name,
            "datatype": datatype_of(array),
            "shape": list(array.shape),
        }
        if binary:
            blobs.append(to_bytes(array))
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        elif array.dtype == np.object_:
            entry["data"] = [_text(item) for item in array.ravel()]
        else:
            entry["data"] = array.ravel().tolist()
        entries.append(entry)
    document: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": entries}
    if request.id is not None:
        document["id"] = request.id
    head = json.dumps(document).encode()
    return head + b"".join(blobs), len(head) if blobs else None


def datatype_of(array: Array) -> str:
    """Return KServe's name of an array's type; text and bytes are ``BYTES``."""
    for name, dtype in DTYPES.items():
        if array.dtype == dtype:
            return name
    return "BYTES"


def to_bytes(array: Array) -> bytes:
    """Encode little-endian and row-major; a length (4 bytes) precedes each element of ``BYTES``."""
    if array.dtype != np.object_:
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    items = (item if isinstance(item, bytes) else str(item).encode() for item in array.ravel())
    return b"".join(struct.pack("<I", len(item)) + item for item in items)


def _entries(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = document.get(key, [])
    if not isinstance(entries, list):
        raise BadRequest(f"`{key}` must be a list")
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise BadRequest(f"each of `{key}` must be an object with a `name`")
        if "shared_memory_region" in _parameters(entry):
            raise BadRequest("shared memory is not supported: send the data in the request")
    return entries


def _parameters(document: dict[str, Any]) -> dict[str, Any]:
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise BadRequest("`parameters` must be an object")
    return parameters


def _wanted(document: dict[str, Any], known: set[str], binary: bool) -> dict[str, bool]:
    wanted: dict[str, bool] = {}
    for entry in _entries(document, "outputs"):
        if entry["name"] not in known:
            raise BadRequest(
                f"unknown output {entry['name']!r}: the model has {', '.join(sorted(known))}"
            )
        if "classification" in _parameters(entry):
            raise BadRequest("the classification extension is not supported: request the tensor")
        wanted[entry["name"]] = bool(_parameters(entry).get("binary_data", binary))
    return wanted


def _shape(entry: dict[str, Any]) -> tuple[int, ...]:
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(d) is int and d >= 0 for d in shape):
        raise BadRequest(
            f"input {entry['name']!r} needs a `shape`: a list of integers of at least 0"
        )
    return tuple(shape)


def _tensor(
    entry: dict[str, Any], datatype: str, shape: tuple[int, ...], rest: memoryview
) -> tuple[Array, memoryview]:
    """Return the array of one input, and the rest of the binary part after it."""
    name, size = entry["name"], _parameters(entry).get("binary_data_size")
    if size is None:
        return _from_json(name, entry.get("data"), datatype, shape), rest
    if type(size) is not int or not 0 <= size <= len(rest):
        raise BadRequest(f"input {name!r}: binary_data_size must be 0 to {len(rest)}")
    return _from_bytes(name, rest[:size], datatype, shape), rest[size:]


def _from_json(name: str, data: Any, datatype: str, shape: tuple[int, ...]) -> Array:
    if not isinstance(data, list):
        raise BadRequest(f"input {name!r} needs `data` (a list) or binary_data_size")
    flat: list[Any] = []
    stack = [iter(data)]  # clients may nest to any depth, so without recursion
    while stack:
        for item in stack[-1]:
            if isinstance(item, list):
                stack.append(iter(item))
                break
            flat.append(item)
        else:
            stack.pop()
    _check_count(name, len(flat), shape)
    if datatype == "BYTES":
        if not all(isinstance(item, str) for item in flat):
            raise BadRequest(f"input {name!r}: the data of BYTES must be strings")
        array = np.array([item.encode() for item in flat] + [None], dtype=np.object_)[:-1]
        return array.reshape(shape)
    allowed: tuple[type, ...] = (bool,) if datatype == "BOOL" else (int,)
    if datatype.startswith("FP"):
        allowed = (int, float)
    if not all(type(item) in allowed for item in flat):
        raise BadRequest(f"input {name!r}: the data does not fit {datatype}")
    try:
        return np.array(flat, dtype=DTYPES[datatype]).reshape(shape)
    except (OverflowError, ValueError, TypeError) as exc:
        raise BadRequest(f"input {name!r}: the data does not fit {datatype}: {exc}") from exc


def _from_bytes(name: str, data: memoryview, datatype: str, shape: tuple[int, ...]) -> Array:
    if datatype != "BYTES":
        dtype = np.dtype(DTYPES[datatype]).newbyteorder("<")
        if len(data) != math.prod(shape) * dtype.itemsize:
            raise BadRequest(
                f"input {name!r}: {len(data)} bytes, not {math.prod(shape) * dtype.itemsize}"
            )
        return np.frombuffer(data, dtype=dtype).reshape(shape)
    items: list[bytes | None] = []
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise BadRequest(f"input {name!r}: the data ends within a length")
        (length,) = struct.unpack_from("<I", data, at)
        if at + 4 + length > len(data):
            raise BadRequest(f"input {name!r}: the data ends within an element")
        items.append(bytes(data[at + 4 : at + 4 + length]))
        at += 4 + length
    _check_count(name, len(items), shape)
    return np.array([*items, None], dtype=np.object_)[:-1].reshape(shape)


def _check_count(name: str, count: int, shape: tuple[int, ...]) -> None:
    if count != math.prod(shape):
        raise BadRequest(
            f"input {name!r}: {count} elements, not {math.prod(shape)} as its shape says"
        )


def _text(item: Any) -> str:
    return item.decode(errors="replace") if isinstance(item, bytes) else str(item)
