"""Settings of a load as operators write them: names, aliases, engine arguments (no I/O here)."""

from __future__ import annotations

from collections.abc import Mapping

from modelium.models.profile import LoadSettings

Value = str | int | float | bool

ALIASES = {"max_batch_size": "max_num_seqs"}
"""Another name for it, from the user's description of Modelium; the name itself takes precedence.
"""
RESERVED = frozenset(
    {
        *("model", "host", "port", "uds", "api_key", "served_model_name", "trust_remote_code"),
        *("middleware", "allowed_media_domains", "allowed_local_media_path"),
        *("device_ids", "gpu_memory_utilization", "kv_cache_memory_bytes", "root_path"),
        *("tensor_parallel_size", "pipeline_parallel_size", "config"),
        *("nnodes", "node_rank", "master_addr", "master_port", "headless"),
        *("distributed_executor_backend",),
    }
)
"""Arguments of vLLM that its driver sets itself: nobody else may."""


def split(given: Mapping[str, Value]) -> tuple[dict[str, Value], dict[str, Value]]:
    """Return the fields of `LoadSettings` in ``given``, and the engine arguments beside them."""
    known: dict[str, Value] = {}
    extra: dict[str, Value] = {}
    for key, value in given.items():
        name = ALIASES.get(key, key)
        if name != key and name in given:
            continue
        (known if name in LoadSettings.model_fields else extra)[name] = value
    return known, extra
