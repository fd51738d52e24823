"""What releases of vLLM accept, and that the driver gives each release only that.

``tests/data/vllm_arguments.json`` is written by ``tools/record_vllm_arguments.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from modelium.config import Vllm as VllmSection
from modelium.errors import FailureKind, LoadFailed
from modelium.models import GIB, Device, LoadSettings
from runtimes.vllm.installation import Installation, installed, read
from runtimes.vllm.recipe import VllmRecipe, visible_devices
from tests.engines import environment
from tests.fakes.nvml import FakeGpu, FakeNvml, fake_nvml, nvml_library
from tests.runtimes.requests import CPU, request

pytestmark = pytest.mark.slow

__all__ = ["fake_nvml", "nvml_library"]

RECORDED = Path(__file__).parents[2] / "data" / "vllm_arguments.json"
RELEASES = {
    version: Installation(
        version=version, **{name: frozenset(values) for name, values in found.items()}
    )
    for version, found in json.loads(RECORDED.read_text()).items()
}
GPU = Device(node="n", uuid="GPU-a", index=3, kind="gpu", total_bytes=80 * GIB, free_bytes=80 * GIB)


def recipe(release: Installation, **section: object) -> VllmRecipe:
    config = VllmSection.model_validate({"enabled": True} | section)
    return VllmRecipe(config=config, executable="vllm", installation=lambda: release)


def test_the_matrix_has_the_releases_that_people_run() -> None:
    assert set(RELEASES) == {"0.11.0", "0.15.0", "0.19.0", "0.22.0", "0.32.0"}


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("device", [GPU, CPU], ids=["gpu", "cpu"])
def test_every_release_accepts_what_it_is_given(version: str, device: Device) -> None:
    everything = LoadSettings(
        dtype="bfloat16", kv_dtype="fp8", quantization="fp8", max_model_len=4096,
        max_num_seqs=8, kv_cache_bytes=GIB,
    )  # fmt: skip
    given = recipe(RELEASES[version], default_settings={"enable_sleep_mode": True})
    two = LoadSettings(tensor_parallel_size=2)
    for asked in (
        request(Path("/m"), devices=(device,), settings=everything, allow_remote_code=True),
        request(Path("/m"), devices=(device, device), settings=two),
    ):
        command = given.command(given.complete(asked), host="127.0.0.1", port=1, key="k")
        options = {word.partition("=")[0] for word in command.argv if word.startswith("--")}
        assert options
        assert options <= RELEASES[version].arguments


def test_an_option_that_the_release_lacks_is_named() -> None:
    given = recipe(RELEASES["0.32.0"], default_settings={"swap_space": 4})
    with pytest.raises(LoadFailed, match=r"vLLM 0\.32\.0 has no option --swap-space") as failure:
        given.command(given.complete(request(Path("/m"))), host="h", port=1, key="k")
    assert failure.value.kind == FailureKind.BAD_SETTINGS


@pytest.mark.parametrize(
    ("version", "shown"),
    [
        ("0.11.0", "3"),
        ("0.23.1", "3"),
        ("0.24.0", "GPU-a"),
        ("0.32.0+cpu", "GPU-a"),
        ("1.0", "GPU-a"),
        ("", "3"),
        ("dev", "3"),
    ],
)
def test_gpus_are_shown_by_uuid_only_where_the_release_reads_uuids(
    version: str, shown: str
) -> None:
    variables = visible_devices([GPU], Installation(version=version))
    assert variables == {"CUDA_VISIBLE_DEVICES": shown, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_an_unreadable_installation_may_accept_anything(tmp_path: Path) -> None:
    found = installed(tmp_path / "bin" / "vllm")
    assert found == Installation()
    assert found.accepts("--anything")


def test_a_negated_switch_is_accepted_where_the_switch_is() -> None:
    assert RELEASES["0.19.0"].accepts("--no-enable-prefix-caching")
    assert not RELEASES["0.19.0"].accepts("--no-such-thing")


def test_the_installed_release_is_read_from_its_files() -> None:
    command = environment("vllm") / "bin" / "vllm"
    found = installed(command)
    recorded = RELEASES["0.32.0"]
    assert found.version.startswith("0.32.0")
    assert found.arguments == recorded.arguments
    assert (found.tool_parsers, found.reasoning_parsers) == (
        recorded.tool_parsers,
        recorded.reasoning_parsers,
    )
    assert "hermes" in found.tool_parsers
    assert "qwen3" in found.reasoning_parsers


def test_decorated_parsers_and_fields_are_found(tmp_path: Path) -> None:
    frontend = tmp_path / "vllm" / "entrypoints" / "openai"
    (frontend / "tool_parsers").mkdir(parents=True)
    (frontend / "cli_args.py").write_text("class FrontendArgs:\n    chat_template: str\n")
    (frontend / "tool_parsers" / "x.py").write_text(
        '@Manager.register_module(["a", "b"])\nclass X: ...\n'
    )
    (frontend / "tool_parsers" / "broken.py").write_text("def (")
    found = read(tmp_path, "0.1")
    assert found.arguments == {"--chat-template"}
    assert found.tool_parsers == {"a", "b"}


RESOLVE = """
import sys, types
# CUDA kernels, which the CPU build lacks and the resolver does not use.
sys.modules["vllm._C_stable_libtorch"] = types.ModuleType("kernels")
from vllm.platforms.cuda import NvmlCudaPlatform
for name in sys.argv[1:]:
    print(NvmlCudaPlatform.device_control_id_to_physical_device_id(name))
"""


def test_vllms_own_resolver_takes_what_it_is_shown(fake_nvml: FakeNvml) -> None:
    for name in ("GPU-a", "GPU-b", "GPU-c"):
        fake_nvml.add(FakeGpu(uuid=name))
    devices = [
        GPU.model_copy(update={"uuid": uuid, "index": index})
        for uuid, index in (("GPU-c", 2), ("GPU-a", 0))
    ]
    shown = [
        name
        for release in ("0.32.0", "0.22.0")
        for name in visible_devices(devices, RELEASES[release])["CUDA_VISIBLE_DEVICES"].split(",")
    ]
    assert shown == ["GPU-c", "GPU-a", "2", "0"]
    found = subprocess.run(
        [environment("vllm") / "bin" / "python", "-c", RESOLVE, *shown],
        env={**os.environ, "LD_LIBRARY_PATH": str(fake_nvml.library.parent)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.split() == ["2", "0", "2", "0"]
