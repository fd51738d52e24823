"""Entries of configurations that make a loader import code that is not its own."""

from __future__ import annotations

from typing import Any

PIPELINE_INDEX = "model_index.json"
"""The configuration of a diffusers pipeline."""
PIPELINE_LIBRARIES = frozenset({"diffusers", "transformers", "onnxruntime"})
"""Where a diffusers pipeline may take components from; any other module would be imported."""
ADAPTER_LIBRARIES = frozenset({"transformers", "diffusers"})
"""Parent libraries of PEFT adapters; PEFT imports whatever module is named there."""


def names_code(config: dict[str, Any], *, depth: int = 8) -> bool:
    """Whether ``auto_map`` occurs in a transformers configuration or its nested sections."""
    if config.get("auto_map"):
        return True
    nested = (value for value in config.values() if isinstance(value, dict))
    return depth > 0 and any(names_code(part, depth=depth - 1) for part in nested)


def names_foreign_parent(config: dict[str, Any]) -> bool:
    """Whether a PEFT configuration's ``auto_mapping`` names a library that is not known."""
    mapping = config.get("auto_mapping")
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    return library is not None and str(library).split(".")[0] not in ADAPTER_LIBRARIES


def foreign_components(index: dict[str, Any]) -> list[str]:
    """Components of a diffusers ``model_index.json`` whose class comes from another library."""
    found = []
    for name, entry in index.items():
        if not name.startswith("_") and isinstance(entry, list) and len(entry) == 2:
            library = entry[0]
            if isinstance(library, str) and library.partition(".")[0] not in PIPELINE_LIBRARIES:
                found.append(name)
    if isinstance(index.get("_class_name"), list):
        found.append("_class_name")
    return found
