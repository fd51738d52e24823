"""``model.json`` of Triton's vLLM backend: the keyword arguments of an engine.

Whatever is in it reaches ``AsyncEngineArgs``, of which many import a module, open a path or a
connection, and each version of vLLM adds some: only plain ones are let through.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from modelium.analysis.readers.folder import Folder, inside, shown

ARGUMENTS, ADAPTERS = "model.json", "multi_lora.json"

_PATHS = frozenset({"model", "tokenizer"})
_AMOUNTS = frozenset(
    {
        "block_size", "calculate_kv_scales", "cpu_offload_gb", "data_parallel_size",
        "disable_cascade_attn", "disable_custom_all_reduce", "disable_log_requests",
        "disable_log_stats", "disable_sliding_window", "enable_chunked_prefill",
        "enable_expert_parallel", "enable_lora", "enable_log_requests", "enable_prefix_caching",
        "enable_sleep_mode", "enforce_eager", "fully_sharded_loras", "gpu_memory_utilization",
        "kv_cache_memory_bytes", "long_prefill_token_threshold", "max_cpu_loras", "max_logprobs",
        "max_long_partial_prefills", "max_lora_rank", "max_loras", "max_model_len",
        "max_num_batched_tokens", "max_num_partial_prefills", "max_num_seqs",
        "max_parallel_loading_workers", "max_seq_len_to_capture", "num_gpu_blocks_override",
        "pipeline_parallel_size", "seed", "skip_tokenizer_init", "swap_space",
        "tensor_parallel_size", "use_tqdm_on_load",
    }
)  # fmt: skip
"""Arguments that are numbers or switches; so are some written as strings."""
_CHOICES = {
    "device": {"auto", "cpu", "cuda"},
    "distributed_executor_backend": {"mp", "uni"},
    "dtype": {"auto", "bfloat16", "float", "float16", "float32", "half"},
    "kv_cache_dtype": {"auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc"},
    "load_format": {
        "auto", "bitsandbytes", "dummy", "fastsafetensors", "gguf", "mistral", "safetensors",
        "sharded_state",
    },
    "lora_dtype": {"auto", "bfloat16", "float16"},
    "scheduling_policy": {"fcfs", "priority"},
    "tokenizer_mode": {"auto", "mistral", "slow"},
}  # fmt: skip
_AMOUNT = re.compile(r"[0-9]+(\.[0-9]+)?|true|false", re.IGNORECASE)
_WORDS = {name: re.compile(r"[A-Za-z0-9_-]{1,64}") for name in ("quantization", "runner", "task")}
"""Looked up in lists of vLLM's own."""


def special_arguments(folder: Folder) -> list[str]:
    """Return what in ``folder`` is no plain argument, as "file (names)".

    Raises:
        DropRejected: a file is no JSON object.
    """
    found = []
    for entry in folder.files:
        name = entry.name.rpartition("/")[2]
        if name == ARGUMENTS:
            named = [k for k, v in folder.json(entry.name).items() if not _plain(folder, k, v)]
        elif name == ADAPTERS:
            named = [k for k, v in folder.json(entry.name).items() if not _own(folder, v)]
        else:
            continue
        if named:
            found.append(f"{entry.name} ({', '.join(shown(key) for key in sorted(named))})")
    return found


def _plain(folder: Folder, key: str, value: Any) -> bool:
    if not value:  # turns off, or is the default of, what it names
        return True
    if key in _PATHS:
        return _own(folder, value)
    if key in _AMOUNTS:
        return isinstance(value, bool | int | float) or _matches(_AMOUNT, value)
    if key in _WORDS:
        return _matches(_WORDS[key], value)
    return isinstance(value, str) and value in _CHOICES.get(key, ())


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _own(folder: Folder, value: Any) -> bool:
    """Whether ``value`` is a path to something that the entry, or a version of it, has."""
    path = value.rstrip("/") if isinstance(value, str) else ""
    return inside(path) and any(path in place for place in _places(folder))


def _places(folder: Folder) -> Iterator[set[str]]:
    names = set(folder.sizes)
    for name in folder.sizes:
        parts = name.split("/")
        names.update("/".join(parts[:end]) for end in range(1, len(parts)))
    yield names
    yield {rest for name in names if (rest := name.partition("/")[2])}
