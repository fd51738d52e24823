"""Writes an ONNX model that doubles its input: ``y = x · 2I`` (256 KB)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

WIDTH = 256
FLOAT = 1
"""``TensorProto.DataType`` of float32 (onnx.proto3)."""

VARINT, BYTES = 0, 2
"""Wire types of protobuf."""


def write(folder: Path) -> Path:
    """Write ``model.onnx`` and return its folder.

    Input ``x`` and output ``y`` are FP32 of shape (batch, `WIDTH`).
    """
    weights = np.eye(WIDTH, dtype=np.float32) * 2
    initializer = (
        b"".join(_number(1, extent) for extent in weights.shape)
        + _number(2, FLOAT)
        + _text(8, "W")
        + _bytes(9, weights.tobytes())
    )
    node = _text(1, "x") + _text(1, "W") + _text(2, "y") + _text(4, "MatMul")
    graph = (
        _bytes(1, node)
        + _text(2, "double")
        + _bytes(5, initializer)
        + _bytes(11, _value("x"))
        + _bytes(12, _value("y"))
    )
    model = _number(1, 8) + _bytes(7, graph) + _bytes(8, _text(1, "") + _number(2, 17))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model)
    return folder


def _value(name: str) -> bytes:
    """Return a ``ValueInfoProto``: float32 of shape (batch, `WIDTH`)."""
    shape = _bytes(1, _text(2, "batch")) + _bytes(1, _number(1, WIDTH))
    tensor = _number(1, FLOAT) + _bytes(2, shape)
    return _text(1, name) + _bytes(2, _bytes(1, tensor))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | VARINT) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
