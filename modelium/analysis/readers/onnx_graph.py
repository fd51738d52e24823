"""Reads inputs, outputs, opset, weight sizes and external data of ONNX files, but no tensors.

Field numbers are those of ``onnx.proto3``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from modelium.analysis.readers.folder import inside, shown, unreadable
from modelium.analysis.readers.protobuf_wire import Field, Wire
from modelium.errors import DropRejected
from modelium.models import TensorSpec

MAX_NESTING = 16
"""Limit for graphs nested in attributes (If, Loop, Scan)."""
MAX_RANK = 64
MAX_EXTERNAL = 200_000

TYPES: dict[int, tuple[str, int, str]] = {
    1: ("FP32", 32, "F32"), 2: ("UINT8", 8, "U8"), 3: ("INT8", 8, "I8"), 4: ("UINT16", 16, "U16"),
    5: ("INT16", 16, "I16"), 6: ("INT32", 32, "I32"), 7: ("INT64", 64, "I64"),
    8: ("BYTES", 8, "STRING"), 9: ("BOOL", 8, "BOOL"), 10: ("FP16", 16, "F16"),
    11: ("FP64", 64, "F64"), 12: ("UINT32", 32, "U32"), 13: ("UINT64", 64, "U64"),
    14: ("COMPLEX64", 64, "C64"), 15: ("COMPLEX128", 128, "C128"), 16: ("BF16", 16, "BF16"),
    17: ("FP8", 8, "F8_E4M3"), 18: ("FP8", 8, "F8_E4M3FNUZ"), 19: ("FP8", 8, "F8_E5M2"),
    20: ("FP8", 8, "F8_E5M2FNUZ"), 21: ("UINT4", 4, "U4"), 22: ("INT4", 4, "I4"),
    23: ("FP4", 4, "F4"), 24: ("FP8", 8, "F8_E8M0"), 25: ("UINT2", 2, "U2"),
    26: ("INT2", 2, "I2"),
}  # fmt: skip
"""TensorProto.DataType → KServe name, bits, safetensors name."""
_PARAMETERS = frozenset({1, 2, 3, 10, 11, *range(16, 27)})
"""Types of weights: floats, and what they are quantized to."""


@dataclass(frozen=True, slots=True)
class External:
    """The location of a tensor in another file: name, offset and length in bytes."""

    location: str
    offset: int
    length: int


@dataclass(kw_only=True)
class Graph:
    """The contents of one ``.onnx`` file, without tensor data."""

    inputs: list[TensorSpec] = field(default_factory=list)
    outputs: list[TensorSpec] = field(default_factory=list)
    opsets: dict[str, int] = field(default_factory=dict)
    producer: str = ""
    initializers: set[str] = field(default_factory=set)
    bytes_by_dtype: dict[str, int] = field(default_factory=dict)
    parameters: int = 0
    nodes: int = 0
    domains: set[str] = field(default_factory=set)
    external: list[External] = field(default_factory=list)


def read_graph(path: Path, what: str) -> Graph:
    """Scan one file; ``what`` names it in messages.

    Raises `DropRejected` if it is not ONNX, exceeds a limit or refers to files outside its folder.
    """
    try:
        with path.open("rb") as file:
            return _Scanner(Wire(file, what=what), what).model()
    except OSError as exc:
        raise unreadable(what, exc) from exc


class _Scanner:
    def __init__(self, wire: Wire, what: str) -> None:
        self.wire = wire
        self.what = what
        self.found = Graph()

    def model(self) -> Graph:
        graphs = 0
        for item in self.wire.fields(0, self.wire.size):
            if item.number == 7:
                graphs += 1
                self.graph(item, depth=0)
            elif item.number == 8:
                self.opset(item)
            elif item.number == 2:
                self.found.producer = self.wire.text(item)[:200]
            elif item.number == 25:
                self.function(item)
        if graphs != 1 or not self.found.opsets:
            raise DropRejected(
                f"{self.what} is not an ONNX model (no graph or no opset). Export it again.",
                reason="bad-onnx",
            )
        names = self.found.initializers
        # Before IR version 4, every initializer is also listed as an input.
        self.found.inputs = [spec for spec in self.found.inputs if spec.name not in names]
        return self.found

    def message(self, item: Field) -> tuple[int, int]:
        if item.kind != 2:
            raise self.wire.bad(f"field {item.number} is not a message", "bad-onnx")
        return item.begin, item.end

    def opset(self, item: Field) -> None:
        domain, version = "", 0
        for part in self.wire.fields(*self.message(item)):
            if part.number == 1:
                domain = self.wire.text(part)
            elif part.number == 2:
                version = part.value
        self.found.opsets[domain] = version

    def graph(self, item: Field, *, depth: int) -> None:
        if depth > MAX_NESTING:
            raise self.wire.bad(f"graphs are nested more than {MAX_NESTING} deep", "too-deep")
        for part in self.wire.fields(*self.message(item)):
            if part.number == 1:
                self.node(part, depth=depth)
            elif part.number == 5:
                self.tensor(part, initializer=depth == 0)
            elif part.number == 15:
                self.sparse(part)
            elif part.number == 11 and depth == 0:
                self.found.inputs.append(self.value(part))
            elif part.number == 12 and depth == 0:
                self.found.outputs.append(self.value(part))

    def function(self, item: Field) -> None:
        for part in self.wire.fields(*self.message(item)):
            if part.number == 7:
                self.node(part, depth=1)

    def node(self, item: Field, *, depth: int) -> None:
        self.found.nodes += 1
        for part in self.wire.fields(*self.message(item)):
            if part.number == 5:
                self.attribute(part, depth=depth)
            elif part.number == 7:
                self.found.domains.add(self.wire.text(part))

    def attribute(self, item: Field, *, depth: int) -> None:
        for part in self.wire.fields(*self.message(item)):
            if part.number in {5, 10}:
                self.tensor(part, initializer=False)
            elif part.number in {6, 11}:
                self.graph(part, depth=depth + 1)
            elif part.number in {22, 23}:
                self.sparse(part)

    def sparse(self, item: Field) -> None:
        for part in self.wire.fields(*self.message(item)):
            if part.number in {1, 2}:
                self.tensor(part, initializer=False)

    def tensor(self, item: Field, *, initializer: bool) -> None:
        dims: list[int] = []
        kind, strings = 0, 0
        entries: dict[str, str] = {}
        for part in self.wire.fields(*self.message(item)):
            if part.number == 1:
                dims += self.wire.numbers(part, limit=MAX_RANK)
            elif part.number == 2:
                kind = part.value
            elif part.number == 6:
                strings += part.end - part.begin
            elif part.number == 8 and initializer:
                self.found.initializers.add(self.wire.text(part))
            elif part.number == 13:
                key, value = self.entry(part)
                entries[key] = value
        if len(dims) > MAX_RANK or any(not 0 <= n < 2**48 for n in dims):
            raise self.wire.bad("a tensor has an invalid shape", "bad-onnx")
        if kind not in TYPES:
            raise self.wire.bad(f"a tensor has the unknown type {kind}", "bad-onnx")
        _, bits, name = TYPES[kind]
        elements = math.prod(dims)
        size = strings if kind == 8 else (elements * bits + 7) // 8
        if entries:
            self.external(entries, size)
        elif size > self.wire.size * 8:
            raise self.wire.bad("a tensor is larger than the file", "absurd-counts")
        self.found.bytes_by_dtype[name] = self.found.bytes_by_dtype.get(name, 0) + size
        if kind in _PARAMETERS:
            self.found.parameters += elements

    def external(self, entries: dict[str, str], size: int) -> None:
        location = entries.get("location", "")
        if not inside(location):
            raise DropRejected(
                f"{self.what} refers to external data at {shown(location)!r}, outside its folder. "
                "Export it with its external data beside it.",
                reason="path-traversal",
            )
        try:
            offset = int(entries.get("offset") or 0)
            length = int(entries.get("length") or size)
        except ValueError as exc:
            raise self.wire.bad(
                "the offset or length of external data is not a number", "bad-onnx"
            ) from exc
        if offset < 0 or length < 0 or len(self.found.external) >= MAX_EXTERNAL:
            raise self.wire.bad("external data has an invalid offset or length", "bad-onnx")
        self.found.external.append(External(location, offset, length))

    def entry(self, item: Field) -> tuple[str, str]:
        key = value = ""
        for part in self.wire.fields(*self.message(item)):
            if part.number == 1:
                key = self.wire.text(part)
            elif part.number == 2:
                value = self.wire.text(part)
        return key, value

    def value(self, item: Field) -> TensorSpec:
        name, dtype, shape = "", "BYTES", [-1]
        for part in self.wire.fields(*self.message(item)):
            if part.number == 1:
                name = self.wire.text(part)
            elif part.number == 2:
                dtype, shape = self.type(part)
        return TensorSpec(name=name, dtype=dtype, shape=tuple(shape))

    def type(self, item: Field) -> tuple[str, list[int]]:
        for part in self.wire.fields(*self.message(item)):
            if part.number != 1:
                # A sequence, map or optional, not a tensor.
                return "UNSUPPORTED", []
            dtype, shape = "UNSUPPORTED", []
            for inner in self.wire.fields(*self.message(part)):
                if inner.number == 1:
                    dtype = TYPES[inner.value][0] if inner.value in TYPES else "UNSUPPORTED"
                elif inner.number == 2:
                    shape = [
                        self.dimension(dim)
                        for dim in self.wire.fields(*self.message(inner))
                        if dim.number == 1
                    ]
            return dtype, shape
        return "UNSUPPORTED", []

    def dimension(self, item: Field) -> int:
        for part in self.wire.fields(*self.message(item)):
            if part.number == 1 and part.kind == 0:
                return part.value if part.value < 2**48 else -1
        return -1
