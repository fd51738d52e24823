"""The tiny models are what their formats' own libraries and our analysis take them for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.numpy import load_file

from modelium.analysis import examine
from modelium.models import RuntimeName
from modelium.selftest import samples
from modelium.selftest.samples import gguf, llama
from modelium.selftest.samples import onnx as double


def test_the_onnx_model_is_valid_and_doubles(tmp_path: Path) -> None:
    file = double.write(tmp_path / "m") / "model.onnx"
    onnx.checker.check_model(str(file), full_check=True)
    session = onnxruntime.InferenceSession(str(file))
    given = np.arange(2 * double.WIDTH, dtype=np.float32).reshape(2, -1)
    (got,) = session.run(None, {"x": given})
    assert np.array_equal(got, given * 2)


def test_the_safetensors_file_is_readable_and_whole(tmp_path: Path) -> None:
    weights = load_file(llama.write(tmp_path / "m") / "model.safetensors")
    assert weights["lm_head.weight"].shape == (llama.VOCABULARY, llama.HIDDEN)
    assert len(weights) == 3 + 9 * llama.LAYERS


@pytest.mark.parametrize(
    ("write", "runtime"),
    [
        (samples.llama.write, RuntimeName.VLLM),
        (gguf.write, RuntimeName.LLAMA_CPP),
        (double.write, RuntimeName.TRITON),
        (double.write, RuntimeName.RAY_SERVE),
    ],
)
def test_each_sample_is_complete_and_its_runtime_can_serve_it(
    write: object, runtime: RuntimeName, tmp_path: Path
) -> None:
    assert callable(write)
    found = examine(write(tmp_path / "m"))
    assert found.missing is None and found.profile is not None
    assert found.profile.support(runtime).supported, found.profile.support(runtime).reason
