"""How a model could be loaded: runtime, tensor-parallel degree, settings, and what each takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from modelium.models import (
    Device,
    Fleet,
    Footprint,
    LoadSettings,
    MeasuredLoad,
    Model,
    ModelFormat,
    ModelProfile,
    Preference,
    RuntimeName,
    Task,
)
from modelium.models.runtimes import RUNTIMES
from modelium.policy import Policy

R = RuntimeName

GENERATIVE = frozenset({Task.TEXT_GENERATION, Task.TEXT2TEXT, Task.IMAGE_TEXT_TO_TEXT})

BY_FORMAT: dict[ModelFormat, tuple[RuntimeName, ...]] = {
    ModelFormat.GGUF: (R.LLAMA_CPP, R.VLLM),
    ModelFormat.DIFFUSERS: (R.RAY_SERVE, R.TRITON),
    ModelFormat.PEFT: (R.VLLM, R.RAY_SERVE),
    ModelFormat.ONNX: (R.TRITON, R.RAY_SERVE),
}
"""Runtimes of a format in order of preference: its native engine first."""


class Estimate(Protocol):
    """`modelium.analysis.estimate`, or whatever stands in for it."""

    def __call__(
        self,
        profile: ModelProfile,
        *,
        runtime: RuntimeName,
        tensor_parallel: int = 1,
        dtype: str | None = None,
        kv_dtype: str | None = None,
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        engine_version: str | None = None,
        device_kind: str | None = None,
        measured: Sequence[MeasuredLoad] = (),
    ) -> Footprint:
        """Return the memory that one device needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One way to load a model on devices of one sort."""

    runtime: RuntimeName
    sort: Sort
    settings: LoadSettings
    reserve: int
    """Bytes per device."""
    given_up: str = ""
    """What the settings lack of what was asked for, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sort:
    """Healthy devices that are alike, on whatever node."""

    kind: str
    name: str
    total_bytes: int
    devices: tuple[Device, ...]

    @property
    def product(self) -> str:
        """What estimates know it by: a GPU's product name where there is one."""
        return self.name or self.kind if self.kind == "gpu" else self.kind

    def by_node(self) -> Iterable[tuple[Device, ...]]:
        """Group its devices by node: a model is split within one node only."""
        nodes: dict[str, list[Device]] = {}
        for device in self.devices:
            nodes.setdefault(device.node, []).append(device)
        return map(tuple, nodes.values())


def sorts(devices: Iterable[Device]) -> tuple[Sort, ...]:
    """Group healthy ``devices`` by likeness."""
    groups: dict[tuple[str, str, int], list[Device]] = {}
    for device in devices:
        if device.healthy:
            groups.setdefault((device.kind, device.name, device.total_bytes), []).append(device)
    return tuple(
        Sort(kind=kind, name=name, total_bytes=total, devices=tuple(alike))
        for (kind, name, total), alike in groups.items()
    )


def preferred_runtimes(profile: ModelProfile) -> tuple[RuntimeName, ...]:
    """Return the runtimes that can serve ``profile``, best first."""
    order = BY_FORMAT.get(profile.format)
    if order is None:
        if profile.format is not ModelFormat.TRANSFORMERS:
            order = (R.TRITON, R.RAY_SERVE)
        elif profile.task in GENERATIVE:
            order = (R.VLLM, R.LLAMA_CPP, R.RAY_SERVE)
        else:
            order = (R.RAY_SERVE, R.VLLM, R.TRITON)
    able = [s.runtime for s in profile.runtimes if s.supported]
    return tuple(sorted(able, key=lambda r: order.index(r) if r in order else len(order)))


def asked_settings(profile: ModelProfile, policy: Policy, runtime: RuntimeName) -> LoadSettings:
    """Return the operator's default settings of ``runtime``, as far as they suit the model.

    The seed's ``max_batch_size`` is ``max_num_seqs``; a context longer than the model's own is
    cut to it; what is no setting of ours goes to the engine as it is.
    """
    given = dict(policy.rules(runtime).default_settings)
    if "max_batch_size" in given:
        given.setdefault("max_num_seqs", given.pop("max_batch_size"))
    known = {k: given.pop(k) for k in tuple(given) if k in LoadSettings.model_fields}
    length = known.get("max_model_len")
    if isinstance(length, int) and profile.context_length:
        known["max_model_len"] = min(length, profile.context_length)
    if known.get("quantization") != profile.quantization:
        known.pop("quantization", None)
    if known.get("tensor_parallel_size") not in profile.tensor_parallel_degrees:
        known.pop("tensor_parallel_size", None)
    return LoadSettings.model_validate({**known, "extra": given})


class Sizer:
    """Lists the ways to load a model, each with the bytes it takes. Pure."""

    def __init__(self, *, estimate: Estimate) -> None:
        """``estimate`` says what one device needs for given settings."""
        self._estimate = estimate

    def options(
        self, model: Model, fleet: Fleet, policy: Policy, *, smaller: bool
    ) -> Iterator[Option]:
        """Yield what could be tried, best first; each fits an empty device of its sort.

        Per runtime in order of preference, on as few devices as possible. ``smaller``: not as
        asked for, but with ever fewer sequences and shorter contexts. Nothing is yielded where
        the model is too large for every device.
        """
        profile = model.profile
        if profile is None:
            return
        groups = sorts(fleet.devices)
        for runtime in preferred_runtimes(profile):
            version = _acting(runtime, fleet, policy)
            if version is None:
                continue
            asked = asked_settings(profile, policy, runtime)
            for sort in groups:
                steps = shrunk(asked, profile, policy) if smaller else iter((asked,))
                for settings in steps:
                    yield from self._on(
                        sort, model, profile, runtime, asked, settings, version, policy
                    )

    def preferred(
        self, model: Model, preference: Preference, fleet: Fleet, policy: Policy
    ) -> Iterator[Option]:
        """Yield the ways to load ``model`` as ``preference`` has it; as `options` otherwise.

        What it leaves open is as the operator's defaults have it.
        """
        profile = model.profile
        if profile is None:
            return
        able = preferred_runtimes(profile)
        for runtime in able if preference.runtime is None else (preference.runtime,):
            version = _acting(runtime, fleet, policy)
            if version is None or runtime not in able:
                continue
            wished = preference.settings.model_dump(exclude_none=True, exclude={"extra"})
            if wished["tensor_parallel_size"] == 1:
                del wished["tensor_parallel_size"]
            asked = asked_settings(profile, policy, runtime).model_copy(update=wished)
            for sort in sorts(fleet.devices):
                yield from self._on(sort, model, profile, runtime, asked, asked, version, policy)

    def _on(
        self,
        sort: Sort,
        model: Model,
        profile: ModelProfile,
        runtime: RuntimeName,
        asked: LoadSettings,
        settings: LoadSettings,
        version: str,
        policy: Policy,
    ) -> Iterator[Option]:
        usable = int(sort.total_bytes * policy.max_gpu_memory_utilization)
        degrees = (
            sorted(profile.tensor_parallel_degrees) if RUNTIMES[runtime].tensor_parallel else [1]
        )
        if sort.kind == "cpu":
            degrees = [1]
        together = max(len(devices) for devices in sort.by_node())
        for degree in degrees:
            if degree > together or degree < min(asked.tensor_parallel_size, degrees[-1]):
                continue
            footprint = self._estimate(
                profile,
                runtime=runtime,
                tensor_parallel=degree,
                dtype=settings.dtype,
                kv_dtype=settings.kv_dtype,
                max_model_len=settings.max_model_len,
                max_num_seqs=settings.max_num_seqs,
                engine_version=version or None,
                device_kind=sort.product,
                measured=[
                    # Loads are recorded under the device's name, which is no CPU's kind.
                    m.model_copy(update={"device_kind": sort.product})
                    for m in model.measured
                    if m.device_kind in (sort.name, sort.product)
                ],
            )
            if footprint.reserve > usable:
                continue
            kv = settings.kv_cache_bytes
            if RUNTIMES[runtime].kv_cache == "pool" and footprint.kv:
                kv = footprint.kv
            reserve = max(1, footprint.reserve)
            yield Option(
                runtime=runtime,
                sort=sort,
                reserve=reserve,
                given_up=given_up(asked, settings),
                settings=settings.model_copy(
                    update={
                        "tensor_parallel_size": degree,
                        "kv_cache_bytes": None if kv is None else min(kv, reserve),
                    }
                ),
            )


def _acting(runtime: RuntimeName, fleet: Fleet, policy: Policy) -> str | None:
    """Version of ``runtime`` (empty where unknown); ``None`` where it may not be acted on."""
    status = fleet.runtimes_by_name.get(runtime)
    if status is None or not status.enabled or not policy.rules(runtime).enabled:
        return None
    return status.version


def shrunk(asked: LoadSettings, profile: ModelProfile, policy: Policy) -> Iterator[LoadSettings]:
    """Yield ever smaller settings than ``asked``, down to the policy's floors.

    Sequences go first (they cost throughput only), then the context (which costs requests).
    """
    if profile.kv is None and profile.kv_bytes_per_token is None:
        return
    settings = asked
    while settings.max_num_seqs and settings.max_num_seqs // 2 >= policy.max_num_seqs_floor:
        settings = settings.model_copy(update={"max_num_seqs": settings.max_num_seqs // 2})
        yield settings
    length = settings.max_model_len or profile.context_length or 0
    while length // 2 >= policy.max_model_len_floor:
        length //= 2
        yield settings.model_copy(update={"max_model_len": length})


def given_up(asked: LoadSettings, settings: LoadSettings) -> str:
    """Say what ``settings`` lack of ``asked``; empty where nothing."""
    lost = [
        f"{name} {getattr(settings, name)} instead of {getattr(asked, name) or 'the model’s own'}"
        for name in ("max_num_seqs", "max_model_len")
        if getattr(settings, name) != getattr(asked, name)
    ]
    return ", ".join(lost)
