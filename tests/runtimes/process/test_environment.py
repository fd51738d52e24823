"""What engines get of the operator's environment."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from modelium.models import Device
from runtimes.process.compile_caches import CACHES, CompileCaches
from runtimes.process.environment import inherited, with_tools
from runtimes.process.supervisor import Command
from tests.runtimes.requests import CPU

PASSED = (
    *("NCCL_SOCKET_IFNAME", "VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "CC", "CXX", "CPATH"),
    *("CUDA_HOME", "LD_LIBRARY_PATH", "HF_HOME", "TORCH_EXTENSIONS_DIR", "TORCHINDUCTOR_CACHE_DIR"),
    *("PYTORCH_CUDA_ALLOC_CONF", "FLASHINFER_WORKSPACE_BASE", "NVIDIA_VISIBLE_DEVICES"),
)
KEPT_BACK = (
    *("HF_TOKEN", "VLLM_API_KEY", "NCCL_SECRET", "CUDA_VISIBLE_DEVICES", "PYTHONPATH"),
    *("AWS_SECRET_ACCESS_KEY", "VIRTUAL_ENV", "MODELIUM_BRAIN_API_KEY", "TORCH_AUTH_TOKEN"),
)


def test_settings_of_compilers_and_libraries_pass_and_secrets_do_not() -> None:
    given = dict.fromkeys((*PASSED, *KEPT_BACK), "x")
    assert inherited(given) == dict.fromkeys(PASSED, "x") | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_the_names_of_variables_are_taken_from_their_start() -> None:
    assert inherited({"MY_CUDA_": "x", "PATHS": "x", "TORCH": "x", "path": "x"}).keys() == {
        "TORCH",
        "CUDA_DEVICE_ORDER",
    }


def test_gpus_are_numbered_as_nvml_numbers_them_unless_the_operator_says_otherwise() -> None:
    assert inherited({})["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert inherited({"CUDA_DEVICE_ORDER": "FASTEST_FIRST"})["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


def test_the_tools_of_an_environment_that_is_not_activated_are_found(tmp_path: Path) -> None:
    home = tmp_path / "env" / "bin"
    home.mkdir(parents=True)
    (home / "vllm").touch()
    link = tmp_path / "local" / "vllm"  # as pipx and uv install commands
    link.parent.mkdir()
    link.symlink_to(home / "vllm")
    assert with_tools("/usr/bin", str(home / "vllm")) == f"{home}:/usr/bin"
    assert with_tools("/usr/bin", str(link)) == f"{link.parent}:{home}:/usr/bin"
    assert with_tools(f"/usr/bin:{home}", str(home / "vllm")) == f"/usr/bin:{home}"
    assert with_tools("/usr/bin", "vllm") == "/usr/bin"
    assert with_tools("", str(link)) == f"{link.parent}:{home}"
    assert with_tools("", "vllm") == ""


GPU = CPU.model_copy(update={"kind": "gpu", "name": "NVIDIA H100 80GB HBM3"})


@pytest.mark.parametrize(
    ("build", "device"),
    [("vllm 0.33", GPU), ("vllm 0.32", GPU.model_copy(update={"name": "L4"})), ("vllm 0.32", CPU)],
)
def test_builds_and_gpus_do_not_share_compiled_kernels(
    tmp_path: Path, build: str, device: Device
) -> None:
    first = CompileCaches(root=tmp_path, build="vllm 0.32").folders(GPU)
    assert first == CompileCaches(root=tmp_path, build="vllm 0.32").folders(GPU)
    assert first.keys() == CACHES.keys()
    assert all(Path(folder).is_relative_to(tmp_path) for folder in first.values())
    other = CompileCaches(root=tmp_path, build=build).folders(device)
    assert not set(first.values()) & set(other.values())


@pytest.mark.parametrize(
    ("device", "kind"),
    [
        (GPU, "nvidia-h100-80gb-hbm3"),
        (GPU.model_copy(update={"name": " (L4) "}), "l4"),
        (GPU.model_copy(update={"name": "®"}), "gpu"),
        (CPU.model_copy(update={"name": "AMD EPYC"}), "cpu"),
    ],
)
def test_a_folder_of_kernels_names_build_and_kind_of_gpu(
    tmp_path: Path, device: Device, kind: str
) -> None:
    build = hashlib.sha256(b"vllm 0.32").hexdigest()[:8]
    assert CompileCaches(root=tmp_path, build="vllm 0.32").folders(device) == {
        "VLLM_CACHE_ROOT": f"{tmp_path}/{build}/{kind}/vllm",
        "TORCHINDUCTOR_CACHE_DIR": f"{tmp_path}/{build}/{kind}/inductor",
        "TORCH_EXTENSIONS_DIR": f"{tmp_path}/{build}/{kind}/extensions",
        "TRITON_CACHE_DIR": f"{tmp_path}/{build}/{kind}/triton",
        "FLASHINFER_WORKSPACE_BASE": f"{tmp_path}/{build}/{kind}/flashinfer",
        "CUDA_CACHE_PATH": f"{tmp_path}/{build}/{kind}/cuda",
    }


def test_folders_that_the_operator_chose_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "/fast/triton")
    command = Command(argv=("vllm",), environment={"VLLM_CACHE_ROOT": "/fast/vllm", "A": "1"})
    found = CompileCaches(root=tmp_path, build="b").added(command, CPU)
    assert found.argv == ("vllm",)
    added = found.environment
    assert added.keys() == {*CACHES, "A"} - {"TRITON_CACHE_DIR"}, "that one is inherited"
    assert added["VLLM_CACHE_ROOT"] == "/fast/vllm"
    assert added["TORCHINDUCTOR_CACHE_DIR"].startswith(str(tmp_path))


def test_a_model_of_its_own_shares_compiled_kernels_with_no_other(tmp_path: Path) -> None:
    caches = CompileCaches(root=tmp_path, build="vllm 0.32")
    shared, own = caches.folders(GPU), caches.folders(GPU, own="m")
    assert own == {
        name: folder.replace(str(tmp_path), f"{tmp_path}/own/m") for name, folder in shared.items()
    }
    command = Command(argv=("vllm",), environment={})
    assert caches.added(command, GPU, own="m").environment == own
