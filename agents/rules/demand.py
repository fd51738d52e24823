"""Load settings by profile, device and demand, where the operator says nothing (pure).

What is chosen here never costs another model its place: more than the default is taken in free
memory alone, and less than the default is taken to spare an eviction.
"""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Any, NamedTuple

from agents.rules.device_groups import DeviceGroup
from modelium.models import ModelFormat, ModelProfile, RuntimeName, Task, Traffic
from modelium.models.runtimes import RUNTIMES

R = RuntimeName

BATCHES = {R.LLAMA_CPP: 8, R.RAY_SERVE: 32}
"""Runtimes that take one request at a time unless told otherwise, and the most that is chosen.
A graph whose first dimension is no batch would answer wrongly: ONNX is left to the operator."""

LLAMA_CONTEXT, LLAMA_DEFAULT = 16_384, 4096
"""llama.cpp's context where memory is free, and where it is not: the cache is allocated whole."""

SIZED_LEAST = 100
"""Requests of known length from which on the longest one tells what context is needed."""
CONTEXT_SPARE = 2
"""A context that suffices is at least this many times the longest request."""
CONTEXT_LEAST = 8192
"""Tokens below which demand alone shortens no context."""

NO_BFLOAT16 = (8, 0)
"""Compute capabilities below cannot calculate in bfloat16 (CUDA C++ programming guide)."""


class Choice(NamedTuple):
    """Settings, and why, for the load's reason."""

    settings: dict[str, Any]
    why: str


def roomier(
    profile: ModelProfile, traffic: Traffic, runtime: RuntimeName, said: Container[str]
) -> tuple[Choice, ...]:
    """Return the settings beyond the default that are worth free memory, if there are any.

    ``said``: names of the settings that the operator or an advisor has chosen.
    """
    settings: dict[str, Any] = {}
    why = []
    if runtime is R.LLAMA_CPP and not (profile.kv or profile.kv_bytes_per_token):
        return ()  # what more sequences and tokens take is not known
    most = BATCHES.get(runtime, 1)
    if runtime is R.RAY_SERVE and (
        profile.task is not Task.EMBEDDING or profile.format is ModelFormat.ONNX
    ):
        most = 1
    batch = min(most, _power_of_two(traffic.concurrency))
    if batch > 1 and "max_num_seqs" not in said:
        settings["max_num_seqs"] = batch
        at_once = math.ceil(traffic.concurrency)
        why.append(f"max_num_seqs {batch}, as {at_once} requests came at once")
    own = profile.context_length or 0
    if runtime is R.LLAMA_CPP and own > LLAMA_DEFAULT and "max_model_len" not in said:
        settings["max_model_len"] = length = min(own, LLAMA_CONTEXT)
        why.append(f"max_model_len {length}, as memory is free")
    return (Choice(settings, "; ".join(why)),) if settings else ()


def sufficient(
    profile: ModelProfile, traffic: Traffic, runtime: RuntimeName, said: Container[str]
) -> tuple[Choice, ...]:
    """Return the shorter contexts that suffice for the known requests, the longest first.

    They are the model's own, halved while it is `CONTEXT_SPARE` times the longest request, and
    longer than one that repeatedly refused requests.
    """
    own = profile.context_length
    if not own or "max_model_len" in said or not RUNTIMES[runtime].takes_context_length:
        return ()
    if runtime is R.LLAMA_CPP or traffic.sized < SIZED_LEAST or not traffic.longest_tokens:
        return ()
    least, length, found = max(CONTEXT_LEAST, CONTEXT_SPARE * traffic.longest_tokens), own, []
    short = traffic.short_context
    refused = f", and {short} refused some" if short else ""
    while length // 2 >= max(least, short + 1):
        length //= 2
        why = (
            f"max_model_len {length} instead of the model’s own {own}: the longest of "
            f"{traffic.sized} requests had {traffic.longest_tokens} tokens{refused}"
        )
        found.append(Choice({"max_model_len": length}, why))
    return tuple(found)


NO_FLOAT16 = ("Gemma2", "Gemma3", "Glm4ForCausalLM", "Plamo2")
"""Beginnings of architectures whose values are too large for float16: vLLM refuses it for them."""


def dtype_for(profile: ModelProfile, runtime: RuntimeName, group: DeviceGroup) -> Choice | None:
    """Return another dtype than the model's own where ``group`` cannot compute in that."""
    capability = group.devices[0].compute_capability
    if runtime is not R.VLLM or profile.dtype != "bfloat16" or capability is None:
        return None
    if capability >= NO_BFLOAT16:
        return None
    dtype = "float32" if (profile.architecture or "").startswith(NO_FLOAT16) else "float16"
    return Choice({"dtype": dtype}, f"dtype {dtype}: {group.name or 'the GPU'} has no bfloat16")


def _power_of_two(requests: float) -> int:
    """Return the least power of two that is at least ``requests``."""
    return 1 << max(0, math.ceil(requests) - 1).bit_length()
