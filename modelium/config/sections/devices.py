"""Section ``devices``: which devices of the machine may be used."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from modelium.config.fields import Section, Switch, Text, note, setting


def _as_text(value: object) -> object:
    """Take an index for text: YAML reads ``0`` as a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Gpu = Annotated[
    Text, BeforeValidator(_as_text), note(allowed="NVML index, UUID or part of a product name")
]


class Devices(Section):
    """Which devices of this machine may be used."""

    use: Annotated[tuple[Gpu, ...], Field(min_length=1)] | None = setting(
        None,
        "GPUs that may be used: by index (`0`; a MIG instance: `0:1`), by UUID, or by a part of "
        "the product name (`H100`).",
        why="Null: all that `CUDA_VISIBLE_DEVICES` of the service leaves, which always counts.",
    )
    cpu_beside_gpus: Switch = setting(
        True,
        "Whether a host with GPUs offers its CPU as well, for small ONNX models and for runtimes "
        "that can use nothing else.",
        why="True: a small model is fast enough there, and leaves the GPUs to the others.",
    )
