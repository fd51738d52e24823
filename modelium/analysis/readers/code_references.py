"""Finds entries of configurations that make a loader import third-party code."""

from __future__ import annotations

from typing import Any

PIPELINE_INDEX = "model_index.json"
"""File name of a diffusers pipeline's configuration."""
SERVE_FILE = "serve.yaml"
"""File that names the application of a drop's own code for Ray Serve."""
PIPELINE_LIBRARIES = frozenset({"diffusers", "transformers", "onnxruntime"})
"""Libraries of a pipeline's components; diffusers would import any other module named there."""
ADAPTER_LIBRARIES = frozenset({"transformers", "diffusers"})
"""Known parent libraries of PEFT adapters; PEFT imports any module that is named there."""


def names_code(config: dict[str, Any], *, depth: int = 8) -> bool:
    """Return whether a transformers configuration or a nested section has ``auto_map``."""
    if config.get("auto_map"):
        return True
    nested = (value for value in config.values() if isinstance(value, dict))
    return depth > 0 and any(names_code(part, depth=depth - 1) for part in nested)


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
