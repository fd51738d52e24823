"""The runtimes and settings with which a new model could be loaded now (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agents.llm.what_if import WhatIf
from agents.rules.sizing import default_settings_for
from modelium.models import (
    GIB,
    Fleet,
    Load,
    LoadSettings,
    Model,
    ModelProfile,
    Preference,
    RuntimeName,
)
from modelium.models.runtimes import RUNTIMES
from modelium.policy import Policy

R = RuntimeName

WITH_CONTEXT = frozenset(r.name for r in RUNTIMES.values() if r.takes_context_length)
"""Runtimes that have a context length."""

CONTEXTS = 8
"""Context lengths offered: eight doublings reach from 2k to 256k."""

MORE_SEQS = 8
"""Greatest factor by which concurrent sequences may be raised; for tensor parallelism it is two."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeChoice:
    """A runtime that could load the model now."""

    runtime: RuntimeName
    gib_per_device: float
    devices: int
    longest_context: int | None
    """Longest context that fits on as many devices; ``None`` where the runtime has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadChoices:
    """What may be chosen for the load of one model."""

    runtimes: tuple[RuntimeChoice, ...]
    settings: Mapping[str, tuple[int, ...]]
    """Field of `LoadSettings` → allowed values."""
    dtypes: tuple[str, ...]


def load_choices(
    what_if: WhatIf,
    *,
    model: Model,
    profile: ModelProfile,
    fleet: Fleet,
    policy: Policy,
    base: LoadSettings,
) -> LoadChoices | None:
    """Return what may be chosen; ``None`` where no runtime can load ``model`` now.

    Args:
        what_if: trial plans for ``model``.
        model: the new model.
        profile: its profile.
        fleet: the runtimes.
        policy: the operator's rules.
        base: the rules' settings; the choices are never below them.
    """
    runtimes, contexts = [], set[int]()
    for support in profile.runtimes:
        status = fleet.runtimes_by_name.get(support.runtime)
        if not support.supported or status is None or not status.healthy:
            continue
        load = what_if.load(Preference(runtime=support.runtime))
        if load is None:
            continue
        fitting = list(_contexts(what_if, load, base, profile))
        contexts |= set(fitting)
        runtimes.append(
            RuntimeChoice(
                runtime=support.runtime,
                gib_per_device=round(max(load.reserve.values()) / GIB, 2),
                devices=len(load.devices),
                longest_context=max(fitting, default=None),
            )
        )
    if not runtimes:
        return None
    settings = {"max_model_len": tuple(sorted(contexts))}
    if base.max_num_seqs and {each.runtime for each in runtimes} & WITH_CONTEXT:
        doubled = (base.max_num_seqs * 2**i for i in range(MORE_SEQS.bit_length()))
        settings["max_num_seqs"] = tuple(n for n in doubled if n <= base.max_num_seqs * MORE_SEQS)
    vllm = next((each for each in runtimes if each.runtime is R.VLLM), None)
    if vllm is not None:
        settings["tensor_parallel_size"] = tuple(
            degree
            for degree in sorted({vllm.devices, *profile.tensor_parallel_degrees})
            if vllm.devices <= degree <= 2 * vllm.devices and what_if.splits(degree)
        )
    return LoadChoices(
        runtimes=tuple(runtimes),
        settings=settings,
        dtypes=_dtypes(model.name, profile, policy) if vllm else (),
    )


def _contexts(
    what_if: WhatIf, load: Load, base: LoadSettings, profile: ModelProfile
) -> Iterator[int]:
    """Yield the rules' context and its doublings, up to the model's, that fit on the devices."""
    longest = profile.context_length
    if load.runtime not in WITH_CONTEXT or not longest:
        return
    least = base.max_model_len or load.settings.max_model_len or longest
    yield least
    for step in range(1, CONTEXTS):
        longer = min(longest, least * 2**step)
        if longer <= least * 2 ** (step - 1):
            return
        settings = LoadSettings(max_model_len=longer)
        trial = what_if.load(Preference(runtime=load.runtime, settings=settings))
        if trial is None or len(trial.devices) > len(load.devices):
            return
        yield longer


def _dtypes(name: str, profile: ModelProfile, policy: Policy) -> tuple[str, ...]:
    """Return the operator's dtype and the model's own, where they differ."""
    default = default_settings_for(profile, policy, R.VLLM, name).dtype
    return (default, "auto") if default not in (None, "auto", profile.dtype) else ()
