"""What other nodes say of themselves, beside what this one sees (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from modelium.models import Device, Model, Node, RuntimeStatus
from modelium.models.base import base_name

Copies = Mapping[tuple[str, int], frozenset[str]]
"""(Model, version) → nodes that have its files."""


def all_devices(own: Sequence[Device], nodes: Iterable[Node], *, here: str) -> tuple[Device, ...]:
    """Return the devices of all nodes; those of a silent one cannot be read."""
    found = list(own)
    for node in nodes:
        if node.name == here:
            continue
        why = f"node {node.name} is silent"
        found += [d.lost(why) if node.silent else d for d in node.report.devices]
    return tuple(found)


def all_runtimes(
    own: Iterable[RuntimeStatus], nodes: Iterable[Node], *, here: str
) -> tuple[RuntimeStatus, ...]:
    """Return the runtimes of all nodes that are not silent, each with its node's name."""
    found = [status.model_copy(update={"node": here}) if here else status for status in own]
    for node in nodes:
        if node.name != here and not node.silent:
            found += node.report.runtimes
    return tuple(found)


def held_files(models: Iterable[Model], copies: Copies) -> dict[str, frozenset[str]]:
    """Return model → nodes that have the files of its current version, where that is known."""
    found = {}
    for model in models:
        nodes = copies.get((base_name(model.name), model.version))
        if nodes is not None:
            found[model.name] = nodes
    return found
