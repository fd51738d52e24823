"""What a vLLM start that ran out of memory is tried again with (no I/O here)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from modelium.ports import LoadRequest

MIN_KV_BYTES = 32 * 1024**2
MIN_CONTEXT = 1024
"""A retry with less memory does not go below this context."""
FREE_SLACK = 0.005
"""Share of a GPU that is left free in a retry: what is in use changes while an engine starts."""
FREE_MEMORY = re.compile(
    r"Free memory on device \S* ?\(([\d.]+)/([\d.]+) GiB\) on startup is less than"
)
LONGEST_CONTEXT = re.compile(r"estimated maximum model length is (\d+)")


def smaller(request: LoadRequest, lines: Sequence[str]) -> LoadRequest | None:
    """Stay within what the log names: free memory, or a context; else halve the context."""
    text = "\n".join(lines)
    if free := FREE_MEMORY.findall(text):
        return within(request, min(float(left) / float(total) for left, total in free))
    old = request.settings
    longest = LONGEST_CONTEXT.findall(text)
    if longest and (length := min(map(int, longest))) >= MIN_CONTEXT:
        return replace(request, settings=old.model_copy(update={"max_model_len": length}))
    context = old.max_model_len or request.profile.context_length
    changes: dict[str, object] = {}
    if context and context > MIN_CONTEXT:
        changes["max_model_len"] = max(MIN_CONTEXT, context // 2)
    if old.max_num_seqs is None or old.max_num_seqs > 1:
        changes["max_num_seqs"] = max(1, (old.max_num_seqs or 256) // 2)
    if not changes:
        return None
    if old.kv_cache_bytes:
        needed = old.kv_cache_bytes - max(0, old.extra_kv_bytes)
        changes["kv_cache_bytes"] = max(MIN_KV_BYTES, needed * 3 // 4)
        changes["extra_kv_bytes"] = 0
    return replace(request, settings=old.model_copy(update=changes))


def within(request: LoadRequest, free_share: float) -> LoadRequest | None:
    """Return ``request`` for devices of which ``free_share`` (0…1) is free; None if too little is.

    Idle memory of the KV cache is given up first, then sequences and context are halved.
    """
    share = round(free_share - FREE_SLACK, 4)
    reserve = {
        device.id: min(request.reserve[device.id], math.ceil(share * device.total_bytes))
        for device in request.devices
    }
    missing = max(request.reserve[id_] - left for id_, left in reserve.items())
    settings = request.settings
    if missing <= 0:
        return None
    if settings.kv_cache_bytes is None:
        return replace(request, reserve=reserve)
    left = settings.kv_cache_bytes - missing
    needed = settings.kv_cache_bytes - settings.extra_kv_bytes
    context = settings.max_model_len or request.profile.context_length or MIN_CONTEXT
    sequences = settings.max_num_seqs
    while left < needed:
        if context // 2 < MIN_CONTEXT:
            return None
        needed, context = -(-needed // 2), context // 2
        sequences = sequences and max(1, sequences // 2)
    changes = {
        "kv_cache_bytes": left,
        "extra_kv_bytes": left - needed,
        "max_model_len": context,
        "max_num_seqs": sequences,
    }
    return replace(request, reserve=reserve, settings=settings.model_copy(update=changes))
