"""``modelium analyze`` and ``modelium estimate``, as scripts and people use them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from modelium.cli.inspect import register
from modelium.errors import ConfigError
from tests import samples
from tests.fakes.nvml import FakeGpu, FakeNvml, fake_nvml, nvml_library
from tests.modelium.analysis.files import LLAMA, gguf_folder, llama_folder, write_json

__all__ = ["fake_nvml", "nvml_library"]

app = typer.Typer()
register(app)
ANALYZE_KEYS = {
    "architecture", "task", "format", "parameter_count", "weight_bytes", "dtype", "quantization",
    "context_length", "kv_bytes_per_token", "tensor_parallel_degrees", "needs_remote_code",
    "runtimes",
}  # fmt: skip
ESTIMATE_KEYS = {
    "weights_gib", "activation_gib", "non_torch_gib", "cuda_graph_gib", "kv_gib_per_1k_tokens",
    "footprint_gib", "reserve_gib",
}  # fmt: skip


def run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


def onnx_file(folder: Path) -> Path:
    """Return a folder with an ONNX model."""
    samples.tiny_onnx(folder / "x")
    return folder / "x"


def test_analyze_prints_the_documented_keys(tmp_path: Path) -> None:
    code, out, _ = run("analyze", llama_folder(tmp_path / "m"), "--json")
    found = json.loads(out)
    assert code == 0
    assert set(found) == ANALYZE_KEYS
    assert found["architecture"] == "LlamaForCausalLM"
    assert found["runtimes"]["vllm"] == {"supported": True, "reason": ""}


def test_analyze_works_for_people(tmp_path: Path) -> None:
    code, out, _ = run("analyze", llama_folder(tmp_path / "m"), "--digest")
    assert code == 0
    assert "LlamaForCausalLM" in out and "from file headers" in out and "sha256:" in out


ESTIMATE = (
    "--runtime", "vllm", "--engine-version", "0.19.0", "--tp", "2", "--max-model-len", "512",
    "--max-num-seqs", "256",
)  # fmt: skip


@pytest.mark.parametrize("bare", [True, False])
def test_estimate_prints_the_documented_keys(tmp_path: Path, bare: bool) -> None:
    path = write_json(tmp_path / "m" / "config.json", LLAMA)
    code, out, _ = run("estimate", path if bare else path.parent, *ESTIMATE, "--json")
    found = json.loads(out)
    assert code == 0
    assert set(found) == ESTIMATE_KEYS
    parts = ("weights_gib", "activation_gib", "non_torch_gib", "cuda_graph_gib")
    assert found["footprint_gib"] == pytest.approx(sum(found[p] for p in parts), abs=0.001)
    assert found["reserve_gib"] > found["footprint_gib"]
    assert found["kv_gib_per_1k_tokens"] == pytest.approx(
        2 * 2 * 2 * 8 * 2 * 1000 / 1024**3, rel=0.1
    )


def test_types_change_the_estimate(tmp_path: Path) -> None:
    path = write_json(tmp_path / "config.json", {**LLAMA, "hidden_size": 4096, "head_dim": 128})

    def value(key: str, *more: str) -> float:
        return float(json.loads(run("estimate", path, *ESTIMATE, *more, "--json")[1])[key])

    assert value("weights_gib", "--dtype", "float32") == pytest.approx(
        2 * value("weights_gib"), rel=0.01
    )
    assert value("kv_gib_per_1k_tokens", "--kv-dtype", "fp8") == pytest.approx(
        value("kv_gib_per_1k_tokens") / 2, rel=0.01
    )


def test_estimate_explains_itself_to_people(tmp_path: Path) -> None:
    path = write_json(tmp_path / "config.json", LLAMA)
    code, out, err = run("estimate", path, "--tp", "3")
    assert code == 0
    assert "exclude the KV cache" in out
    assert "--tp 3 is not supported" in err


def test_code_in_a_configuration_is_reported_not_refused(tmp_path: Path) -> None:
    path = write_json(tmp_path / "config.json", {**LLAMA, "auto_map": {"AutoModel": "x.Y"}})
    assert json.loads(run("analyze", path, "--json")[1])["needs_remote_code"] is True


def test_a_refusal_says_why_and_exits_with_wrong_input(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    code, out, err = run("analyze", folder, "--json")
    assert code == 2
    assert json.loads(out)["rejected"]["reason"] == "pickle"
    assert "rejected (pickle)" in err and "safetensors" in err
    assert run("analyze", folder, "--approve", "pickle")[0] == 0
    assert run("estimate", tmp_path / "gone")[0] == 2


def test_an_archive_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "m.zip").write_bytes(b"PK")
    code, _, err = run("analyze", tmp_path / "m.zip")
    assert code == 2
    assert "m.zip is an archive: unpack it" in err and "inside a folder" not in err


def test_the_configuration_names_the_engines(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("gateway: {prot: 1}")
    with pytest.raises(ConfigError, match="did you mean port"):
        CliRunner().invoke(
            app,
            ["analyze", str(llama_folder(tmp_path / "m")), "--config", str(tmp_path / "m.yaml")],
            catch_exceptions=False,
        )


def test_an_estimate_is_for_the_usual_runtime_of_the_format(tmp_path: Path) -> None:
    folder = gguf_folder(tmp_path / "m")
    usual = run("estimate", folder, "--json")[1]
    assert usual == run("estimate", folder, "--runtime", "llama_cpp", "--json")[1]
    assert usual != run("estimate", folder, "--runtime", "vllm", "--json")[1]


@pytest.mark.parametrize(
    ("device", "code"),
    [("cpu", 0), ("gpu", 0), ("NVIDIA L4", 0), ("NVIDIA H100 80GB HBM3", 0), ("A100", 0),
     ("banana", 2), ("gpu0", 2)],
)  # fmt: skip
def test_an_estimate_wants_a_device_that_can_be(tmp_path: Path, device: str, code: int) -> None:
    assert run("estimate", llama_folder(tmp_path / "m"), "--device", device)[0] == code


@pytest.mark.parametrize(
    ("gpus", "runtime", "device", "shown"),
    [
        (0, "ray_serve", "cpu", "CPU"),
        (0, "vllm", "gpu", "a large GPU"),
        (1, "ray_serve", "gpu", "a large GPU"),
    ],
)
def test_an_estimate_names_the_device_that_it_assumes(
    tmp_path: Path, fake_nvml: FakeNvml, gpus: int, runtime: str, device: str, shown: str
) -> None:
    for number in range(gpus):
        fake_nvml.add(FakeGpu(uuid=f"GPU-{number}"))
    wanted = ("estimate", onnx_file(tmp_path), "--runtime", runtime)
    if runtime == "vllm":
        wanted = ("estimate", llama_folder(tmp_path / "m"))
    found, named = run(*wanted), run(*wanted, "--device", device)
    assert (found[0], named[0]) == (0, 0)
    line, values = found[1].split("\n", 1)
    assert line == f"device                   {shown} (assumed; --device names another)"
    assert named[1] == f"device                   {shown}\n{values}"


def test_an_estimate_where_the_driver_is_broken_is_for_a_gpu(
    tmp_path: Path, fake_nvml: FakeNvml
) -> None:
    fake_nvml.fail_init(18)
    _, out, _ = run("estimate", onnx_file(tmp_path), "--runtime", "ray_serve")
    assert out.startswith(
        "device                   a large GPU (assumed; --device names another)\n"
    )
    _, out, _ = run("estimate", onnx_file(tmp_path), "--device", "NVIDIA L4")
    assert out.startswith("device                   NVIDIA L4\n")


def test_no_heavy_library_is_imported_to_look_at_a_model(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    script = (
        "import sys, typer\n"
        "from modelium.cli.inspect import register\n"
        "app = typer.Typer(); register(app)\n"
        "app(['analyze', sys.argv[1], '--json'], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'onnx', 'onnxruntime', 'ray', 'tritonclient', 'numpy',"
        " 'prefect', 'sqlalchemy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
