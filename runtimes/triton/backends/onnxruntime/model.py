# mypy: ignore-errors
"""Triton's `onnxruntime` backend in Python, for servers without the C++ one; CPU only.

This is a python-based backend: the server loads this file for every entry with
``backend: "onnxruntime"``, so that the same entry also runs on a stock server.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

TYPES = {
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(bool)": "TYPE_BOOL",
    "tensor(string)": "TYPE_STRING",
    **{
        f"tensor({sign}int{bits})": f"TYPE_{sign.upper()}INT{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}


def model_file(folder: Path, version: str, config: dict) -> str:
    """Return the path of the graph of one version."""
    return str(folder / version / (config.get("default_model_filename") or "model.onnx"))


def session(path: str) -> onnxruntime.InferenceSession:
    """Open a graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the server runs many models at once
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class TritonPythonModel:
    """One instance of one model."""

    @staticmethod
    def auto_complete_config(config):
        """Add the tensors that an entry does not declare, as the C++ backend does."""
        known = config.as_dict()
        if known["input"] and known["output"]:
            return config
        # Triton does not pass the path; it is the first argument of the stub process.
        stub = Path(Path("/proc/self/cmdline").read_text().split("\0")[1])
        folder = stub.parents[1]
        graph = session(model_file(folder, stub.parent.name, known))
        for add, tensors, present in (
            (config.add_input, graph.get_inputs(), known["input"]),
            (config.add_output, graph.get_outputs(), known["output"]),
        ):
            for tensor in () if present else tensors:
                dims = [dim if isinstance(dim, int) else -1 for dim in tensor.shape]
                add({"name": tensor.name, "data_type": TYPES[tensor.type], "dims": dims})
        return config

    def initialize(self, args):
        """Open the graph."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"])
        self.session = session(model_file(folder, args["model_version"], config))
        self.inputs = [tensor.name for tensor in self.session.get_inputs()]
        self.outputs = [tensor.name for tensor in self.session.get_outputs()]

    def execute(self, requests):
        """Run each request on its own."""
        return [self.answer(request) for request in requests]

    def answer(self, request):
        """Run the graph on one request."""
        feed = {}
        for name in self.inputs:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is not None:
                array = tensor.as_numpy()
                feed[name] = array.astype(str) if array.dtype == np.object_ else array
        try:
            results = self.session.run(self.outputs, feed)
        except Exception as exc:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(exc)))
        wanted = request.requested_output_names()
        tensors = [
            pb_utils.Tensor(name, np.asarray(result))
            for name, result in zip(self.outputs, results, strict=True)
            if not wanted or name in wanted
        ]
        return pb_utils.InferenceResponse(output_tensors=tensors)
