"""How a model could be loaded: runtime, tensor-parallel degree, settings and memory (pure)."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from agents.rules.demand import Choice, dtype_for
from agents.rules.device_groups import DeviceGroup
from agents.rules.sites import Site, Sites
from agents.rules.spanning import MOST_NODES, stage
from modelium.models import (
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
    Traffic,
)
from modelium.models.runtimes import RUNTIMES
from modelium.policy import Policy
from modelium.policy.backoff import other_runtimes, worn_out
from modelium.policy.track_record import avoided
from modelium.policy.wish_outcomes import WITH_CONTEXT, longest_wished, wished_context

R = RuntimeName

USUAL_SEQUENCES = 256
"""Sequences that vLLM runs at once where no setting says how many."""
FEWEST_NODES = 2
"""Of a model over several nodes."""
GENERATIVE = frozenset({Task.TEXT_GENERATION, Task.TEXT2TEXT, Task.IMAGE_TEXT_TO_TEXT})

RUNTIMES_BY_FORMAT: dict[ModelFormat, tuple[RuntimeName, ...]] = {
    ModelFormat.GGUF: (R.LLAMA_CPP, R.VLLM),
    ModelFormat.DIFFUSERS: (R.RAY_SERVE, R.TRITON),
    ModelFormat.PEFT: (R.VLLM, R.RAY_SERVE),
    ModelFormat.ONNX: (R.TRITON, R.RAY_SERVE),
}
"""Runtimes per format in order of preference: the native engine first."""


class Estimate(Protocol):
    """The signature of `modelium.analysis.estimate`."""

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
        device_bytes: int | None = None,
        batched_tokens: int | None = None,
    ) -> Footprint:
        """Return the memory that one device needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadOption:
    """One way to load a model on devices of one group."""

    runtime: RuntimeName
    group: DeviceGroup
    settings: LoadSettings
    reserve: int
    """Bytes per device."""
    shortfall: str = ""
    """How the settings fall short of the requested ones, as text; empty where they do not."""
    chosen: str = ""
    """What was chosen because the operator says nothing, and why, as text."""
    parts: int = 1
    """Nodes over which it is split, each with as many devices as the tensor-parallel degree."""
    kv_ceiling: int = 0
    """Bytes per device that its KV cache could use in idle memory; 0: it takes none."""


Choose = Callable[[ModelProfile, Traffic, RuntimeName, Container[str]], Sequence[Choice]]
"""One of the functions of `agents.rules.demand`."""


def supporting_runtimes(profile: ModelProfile) -> tuple[RuntimeName, ...]:
    """Return the runtimes that support ``profile``, preferred ones first."""
    order = RUNTIMES_BY_FORMAT.get(profile.format)
    if order is None:
        if profile.format is not ModelFormat.TRANSFORMERS:
            order = (R.TRITON, R.RAY_SERVE)
        elif profile.task in GENERATIVE or profile.kv is not None:  # a generator's class
            order = (R.VLLM, R.LLAMA_CPP, R.RAY_SERVE)
        else:
            order = (R.RAY_SERVE, R.VLLM, R.TRITON)
    able = [s.runtime for s in profile.runtimes if s.supported]
    return tuple(sorted(able, key=lambda r: order.index(r) if r in order else len(order)))


def default_settings_for(
    profile: ModelProfile, policy: Policy, runtime: RuntimeName, name: str | None = None
) -> LoadSettings:
    """Return the operator's settings of ``runtime`` and of model ``name``, adapted to the model.

    ``max_batch_size`` is read as ``max_num_seqs``; a context longer than the model's own is
    shortened to it; a quantization or tensor-parallel degree that the model does not have is
    dropped; keys that `LoadSettings` does not know are passed to the engine unchanged.
    """
    known, extra = policy.settings(runtime, name)
    length = known.get("max_model_len")
    if isinstance(length, int) and profile.context_length:
        known["max_model_len"] = min(length, profile.context_length)
    if known.get("quantization") != profile.quantization:
        known.pop("quantization", None)
    if known.get("tensor_parallel_size") not in profile.tensor_parallel_degrees:
        known.pop("tensor_parallel_size", None)
    return LoadSettings.model_validate({**known, "extra": extra})


class Sizer:
    """Lists the ways to load a model, each with the memory that it needs. Pure; one per plan."""

    def __init__(self, *, estimate: Estimate) -> None:
        """``estimate``: memory that one device needs for given settings."""
        self._estimate = estimate
        self._sites: tuple[Fleet, Policy, Sites] | None = None

    def sites(self, fleet: Fleet, policy: Policy) -> Sites:
        """Return where models may be loaded; the same object for the same fleet and policy."""
        known = self._sites
        if known is None or known[0] is not fleet or known[1] is not policy:
            known = self._sites = fleet, policy, Sites(fleet=fleet, policy=policy)
        return known[2]

    def options(
        self, model: Model, fleet: Fleet, policy: Policy, *, smaller: bool
    ) -> Iterator[LoadOption]:
        """Yield the options, best first; each fits on empty devices of its group.

        Runtimes in order of preference, each on as few devices as possible. Yields nothing where
        the model is too large for every device.

        Args:
            model: nothing is yielded before it is analyzed.
            fleet: its devices and runtimes.
            policy: the operator's rules.
            smaller: yield settings below the requested ones, ever fewer sequences and shorter
                contexts, instead of the requested ones.
        """
        profile = model.profile
        if profile is None:
            return
        found = False
        runtimes = self._runtimes(model, profile, fleet, policy)
        for runtime in runtimes:
            for option in self._for(runtime, model, profile, fleet, policy, smaller=smaller):
                found = True
                yield option
        if found or smaller or len(fleet.nodes) < FEWEST_NODES:
            return
        for runtime in runtimes:
            if any(self._for(runtime, model, profile, fleet, policy, smaller=True)):
                return
        for runtime in runtimes:
            yield from self._spanning(runtime, model, profile, fleet, policy)

    def _spanning(
        self,
        runtime: RuntimeName,
        model: Model,
        profile: ModelProfile,
        fleet: Fleet,
        policy: Policy,
    ) -> Iterator[LoadOption]:
        """Yield how a model that fits on no node is split over as few as can hold it.

        Pipeline parallel over the nodes, which talk little, and tensor parallel within each.
        """
        if not RUNTIMES[runtime].tensor_parallel:
            return
        requested = _requested(model, profile, policy, runtime)
        bare = model.model_copy(update={"measured": ()})  # what was measured was not split so
        sites = self.sites(fleet, policy)
        for site in sites.of(runtime, profile):
            group = sites.spanned(site)
            most = min(len(group.nodes), profile.layers or MOST_NODES, MOST_NODES)
            whole = replace(site, group=group)
            for parts in range(FEWEST_NODES, most + 1):
                given = bare, stage(profile, parts), requested, requested, policy
                option = next(self._on(whole, *given), None)
                if option is not None:
                    split = option.settings.model_copy(update={"pipeline_parallel_size": parts})
                    yield replace(option, parts=parts, settings=split, kv_ceiling=0)
                    break

    def _runtimes(
        self, model: Model, profile: ModelProfile, fleet: Fleet, policy: Policy
    ) -> tuple[RuntimeName, ...]:
        """Return the runtimes to load ``model`` in: not those that failed it, if others can.

        The one that its owner wishes is first.
        """
        able = supporting_runtimes(profile)
        if model.wishes is not None:
            wished = model.wishes.runtime
            able = tuple(sorted(able, key=lambda runtime: runtime is not wished))
        if model.deployment is not None:
            return able  # what sleeps wakes where it is
        worn, poor = worn_out(model, policy), avoided(model, fleet, policy)
        if not worn and not poor:
            return able
        others = other_runtimes(model, fleet, policy)
        # What is known of the model itself counts more than what is known of its class.
        for kept in ([r for r in others if r not in poor], others if worn else []):
            if any(
                True
                for runtime in kept
                for smaller in (False, True)
                for _ in self._for(runtime, model, profile, fleet, policy, smaller=smaller)
            ):
                return tuple(r for r in able if r in kept)
        return able

    def _for(
        self,
        runtime: RuntimeName,
        model: Model,
        profile: ModelProfile,
        fleet: Fleet,
        policy: Policy,
        *,
        smaller: bool,
    ) -> Iterator[LoadOption]:
        """Yield the options in ``runtime``."""
        requested = _requested(model, profile, policy, runtime)
        for site in self.sites(fleet, policy).of(runtime, profile):
            steps = smaller_settings(requested, profile, policy) if smaller else iter((requested,))
            for settings in steps:
                yield from self._on(site, model, profile, requested, settings, policy)

    def chosen(
        self, model: Model, fleet: Fleet, policy: Policy, choose: Choose
    ) -> Iterator[LoadOption]:
        """Yield the options with the settings that ``choose`` returns, best first.

        It is told which settings the operator, or an advisor, has chosen already.
        """
        profile = model.profile
        if profile is None:
            return
        preferred = model.preference.settings if model.preference else LoadSettings()
        for runtime in self._runtimes(model, profile, fleet, policy):
            said = {*policy.settings(runtime, model.name)[0]}
            said.update(preferred.model_dump(exclude_none=True, exclude={"extra"}))
            requested = _requested(model, profile, policy, runtime)
            if requested != default_settings_for(profile, policy, runtime, model.name):
                said.add("max_model_len")  # as the owner wishes
            choices = choose(profile, model.traffic, runtime, said)
            if not choices:
                continue
            for site in self.sites(fleet, policy).of(runtime, profile):
                for choice in choices:
                    given = requested.model_copy(update=choice.settings)
                    yield from self._on(site, model, profile, given, given, policy, why=choice.why)

    def preferred(
        self, model: Model, preference: Preference, fleet: Fleet, policy: Policy
    ) -> Iterator[LoadOption]:
        """Yield the options that follow ``preference``, best first.

        What the preference leaves open is taken from the operator's defaults. A context ends at
        the owner's wish, which costs the owner's quota.
        """
        profile = model.profile
        if profile is None:
            return
        able = self._runtimes(model, profile, fleet, policy)
        for runtime in able if preference.runtime is None else (preference.runtime,):
            if runtime not in able:
                continue
            preferred = preference.settings.model_dump(exclude_none=True, exclude={"extra"})
            if preferred["tensor_parallel_size"] == 1:
                del preferred["tensor_parallel_size"]
            most = longest_wished(model, policy)
            if most is not None and preferred.get("max_model_len", 0) > most:
                preferred["max_model_len"] = most
            requested = _requested(model, profile, policy, runtime)
            requested = requested.model_copy(update=preferred)
            for site in self.sites(fleet, policy).of(runtime, profile):
                yield from self._on(site, model, profile, requested, requested, policy)

    def _on(
        self,
        site: Site,
        model: Model,
        profile: ModelProfile,
        requested: LoadSettings,
        settings: LoadSettings,
        policy: Policy,
        *,
        why: str = "",
    ) -> Iterator[LoadOption]:
        group, status, runtime = site.group, site.status, site.status.name
        if settings.dtype is None and (choice := dtype_for(profile, runtime, group)):
            settings = settings.model_copy(update=choice.settings)
            why = "; ".join(filter(None, (why, choice.why)))
        usable = int(group.total_bytes * policy.max_gpu_memory_utilization)
        degrees = (
            sorted(profile.tensor_parallel_degrees) if RUNTIMES[runtime].tensor_parallel else [1]
        )
        if not group.splits:
            degrees = [1]
        for degree in degrees:
            if degree > group.most_together or degree < min(
                requested.tensor_parallel_size, degrees[-1]
            ):
                continue
            footprint = self._estimate(
                profile,
                runtime=runtime,
                tensor_parallel=degree,
                dtype=settings.dtype,
                kv_dtype=settings.kv_dtype,
                max_model_len=settings.max_model_len,
                max_num_seqs=settings.max_num_seqs,
                engine_version=status.version or None,
                device_kind=group.product,
                device_bytes=group.total_bytes,
                batched_tokens=settings.batched_tokens,
                measured=[
                    # Loads are recorded under the device's name; estimates of CPUs use the kind.
                    m.model_copy(update={"device_kind": group.product})
                    for m in model.measured
                    if m.device_kind in (group.name, group.product)
                ],
            )
            kv, extra, ceiling = settings.kv_cache_bytes, 0, 0
            if RUNTIMES[runtime].kv_cache == "pool" and footprint.kv:
                if kv is None:
                    kv = footprint.kv
                    if group.kind == "gpu":
                        ceiling = footprint.kv_least * (settings.max_num_seqs or USUAL_SEQUENCES)
                elif kv < footprint.kv_least:
                    continue  # the engine would not start; a shorter context may fit
                else:
                    extra = kv - footprint.kv
            reserve = max(1, footprint.reserve + extra)
            if reserve > usable:
                continue
            yield LoadOption(
                runtime=runtime,
                group=group,
                reserve=reserve,
                shortfall=shortfall(requested, settings),
                chosen=why,
                kv_ceiling=ceiling,
                settings=settings.model_copy(
                    update={
                        "tensor_parallel_size": degree,
                        "pipeline_parallel_size": 1,
                        "kv_cache_bytes": None if kv is None else min(kv, reserve),
                        "extra_kv_bytes": extra,
                    }
                ),
            )


def _requested(
    model: Model, profile: ModelProfile, policy: Policy, runtime: RuntimeName
) -> LoadSettings:
    """Return the operator's settings, with a context that the owner's wish may shorten."""
    settings = default_settings_for(profile, policy, runtime, model.name)
    if runtime not in WITH_CONTEXT or "max_model_len" in policy.model_settings.get(model.name, {}):
        return settings
    length = wished_context(model.wishes, profile, settings.max_model_len, policy)
    return settings if length is None else settings.model_copy(update={"max_model_len": length})


def smaller_settings(
    requested: LoadSettings, profile: ModelProfile, policy: Policy
) -> Iterator[LoadSettings]:
    """Yield ever smaller settings than ``requested``, down to the policy's minimums.

    Sequences are halved first, which costs only throughput; then the context, which makes long
    requests fail.
    """
    if profile.kv is None and profile.kv_bytes_per_token is None:
        return
    settings = requested
    while settings.max_num_seqs and settings.max_num_seqs // 2 >= policy.max_num_seqs_floor:
        settings = settings.model_copy(update={"max_num_seqs": settings.max_num_seqs // 2})
        yield settings
    length = settings.max_model_len or profile.context_length or 0
    while length // 2 >= policy.max_model_len_floor:
        length //= 2
        yield settings.model_copy(update={"max_model_len": length})


def shortfall(requested: LoadSettings, settings: LoadSettings) -> str:
    """Return how ``settings`` fall short of ``requested``, as text; empty where they do not."""
    found = []
    for name in ("max_num_seqs", "max_model_len"):
        actual, wanted = getattr(settings, name), getattr(requested, name)
        if actual != wanted:
            found.append(f"{name} {actual} instead of {wanted or 'the model’s own'}")
    return ", ".join(found)
