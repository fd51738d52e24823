"""Any ONNX graph: named input tensors, named output tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from runtimes.ray.replica.tensors import Array, BadRequest, Spec

TYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class OnnxModel:
    """An onnxruntime session."""

    platform = "onnxruntime_onnx"

    def __init__(self, *, path: Path, gpu: bool, memory_bytes: int, threads: int) -> None:
        """Load ``path``.

        ``memory_bytes`` bounds the GPU arena; on the CPU, the memory limit of the process applies.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that spin between requests would take processor time from other models.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = ["CPUExecutionProvider"]
        if gpu:
            if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
                raise ModuleNotFoundError(
                    "this onnxruntime has no CUDA provider: set ray_serve.python to an "
                    "environment with onnxruntime-gpu"
                )
            cuda = {"gpu_mem_limit": str(memory_bytes), "arena_extend_strategy": "kSameAsRequested"}
            providers.insert(0, ("CUDAExecutionProvider", cuda))
        self._session = onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=providers
        )
        if gpu and "CUDAExecutionProvider" not in self._session.get_providers():
            raise RuntimeError("onnxruntime fell back from CUDA to the CPU: see the replica's log")
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(
            _spec(node) for node in self._session.get_outputs() if node.type in TYPES
        )
        if not self.outputs:
            raise ValueError("unsupported: none of the graph's outputs is a tensor")

    @property
    def batches(self) -> bool:
        """Whether requests can be batched along the first dimension."""
        return all(spec.shape[:1] == (-1,) for spec in self.inputs + self.outputs)

    def infer(self, tensors: dict[str, Array], parameters: dict[str, Any]) -> dict[str, Array]:
        """Return all outputs.

        Raises:
            BadRequest: the graph refused the inputs.
        """
        from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

        feed = {name: _strings(array) for name, array in tensors.items()}
        names = [spec.name for spec in self.outputs]
        try:
            answers = self._session.run(names, feed)
        except InvalidArgument as exc:
            raise BadRequest(str(exc)) from exc
        return {name: np.asarray(answer) for name, answer in zip(names, answers, strict=True)}


def _spec(node: Any) -> Spec:
    if node.type not in TYPES:
        raise ValueError(f"unsupported: input {node.name!r} is of type {node.type}")
    shape = tuple(d if isinstance(d, int) and d >= 0 else -1 for d in node.shape)
    return Spec(name=node.name, datatype=TYPES[node.type], shape=shape)


def _strings(array: Array) -> Array:
    """Decode bytes: onnxruntime accepts strings only."""
    if array.dtype != np.object_:
        return array
    try:
        texts = [item.decode() for item in array.ravel()]
    except UnicodeDecodeError as exc:
        raise BadRequest("the graph expects text: BYTES must be UTF-8") from exc
    return np.array([*texts, None], dtype=np.object_)[:-1].reshape(array.shape)
