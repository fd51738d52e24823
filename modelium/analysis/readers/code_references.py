"""Finds entries of configurations that make a loader import third-party code."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

PIPELINE_INDEX = "model_index.json"
"""File name of a diffusers pipeline's configuration."""
SERVE_FILE = "serve.yaml"
"""File that names the application of a drop's own code for Ray Serve."""
PIPELINE_LIBRARIES = frozenset({"diffusers", "transformers", "onnxruntime"})
"""Libraries of a pipeline's components; diffusers would import any other module named there."""
ADAPTER_LIBRARIES = frozenset({"transformers", "diffusers"})
"""Known parent libraries of PEFT adapters; PEFT imports any module that is named there."""


CODE_SUFFIXES = frozenset(
    [
        ".py",
        ".pyc",
        ".pyo",
        ".pyd",
        ".pyx",
        ".pyw",
        ".ipynb",
        ".so",
        ".dll",
        ".dylib",
        ".exe",
        ".sh",
        ".bat",
        ".ps1",
        ".jar",
        ".class",
    ]
)

_LIBRARY_PARTS = frozenset([".so", ".dll", ".dylib"])
"""Parts of a name that make a library wherever they are: ``libx.so.1``."""
PLAN_SUFFIXES = frozenset([".plan", ".engine", ".trt"])
"""Serialized TensorRT engines: to deserialize one is to run what it says (NVIDIA's own warning)."""


def is_code(name: str) -> bool:
    """Return whether the file ``name`` is code that a runtime could run, or is as good as that."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    last = suffixes[-1] if suffixes else ""
    return last in CODE_SUFFIXES or last in PLAN_SUFFIXES or not _LIBRARY_PARTS.isdisjoint(suffixes)


def names_code(config: dict[str, Any]) -> bool:
    """Return whether a transformers configuration has ``auto_map``, at whatever depth."""
    pending: list[Any] = [config]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            if part.get("auto_map"):
                return True
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)
    return False


def names_foreign_parent(config: dict[str, Any]) -> bool:
    """Return whether a PEFT configuration's ``auto_mapping`` names an unknown library."""
    mapping = config.get("auto_mapping")
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    return library is not None and str(library).split(".")[0] not in ADAPTER_LIBRARIES


def foreign_components(index: dict[str, Any]) -> list[str]:
    """Return the components of a ``model_index.json`` whose class is from another library."""
    found = []
    for name, entry in index.items():
        if not name.startswith("_") and isinstance(entry, list) and len(entry) == 2:
            library = entry[0]
            if isinstance(library, str) and library.partition(".")[0] not in PIPELINE_LIBRARIES:
                found.append(name)
    if isinstance(index.get("_class_name"), list):
        found.append("_class_name")
    return found
