"""Load requests for tests of drivers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modelium.models import (
    GIB,
    Device,
    LoadSettings,
    ModelFormat,
    ModelProfile,
    Task,
)
from modelium.ports import LoadRequest

CPU = Device(node="n", uuid="cpu", kind="cpu", total_bytes=16 * GIB, free_bytes=16 * GIB)


def no_progress(phase: str, share: float | None) -> None:
    """Ignore progress."""


class Inventory:
    """A host with one CPU and no GPU."""

    def snapshot(self) -> tuple[Device, ...]:
        return (CPU,)


def profile(format_: ModelFormat = ModelFormat.TRANSFORMERS, **changes: object) -> ModelProfile:
    return ModelProfile(
        format=format_,
        architecture="LlamaForCausalLM",
        task=Task.TEXT_GENERATION,
        weight_bytes=2**20,
        context_length=512,
    ).model_copy(update=changes)


def request(
    path: Path,
    *,
    model: str | None = None,
    version: int = 1,
    devices: tuple[Device, ...] = (CPU,),
    reserve: int = 2 * GIB,
    settings: LoadSettings | None = None,
    profile: ModelProfile = profile(),  # noqa: B008 - frozen
    deadline_s: float = 300.0,
    allow_remote_code: bool = False,
    operator_settings: Mapping[str, str | int | float | bool] | None = None,
) -> LoadRequest:
    return LoadRequest(
        model=model or path.name,
        version=version,
        path=str(path),
        profile=profile,
        settings=settings or LoadSettings(),
        devices=devices,
        reserve={device.id: reserve for device in devices},
        allow_remote_code=allow_remote_code,
        operator_settings=operator_settings or {},
        deadline_s=deadline_s,
    )
