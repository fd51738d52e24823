"""Constants of serving engines from ``engines.toml``, by engine and version."""

from __future__ import annotations

import re
import tomllib
from functools import lru_cache
from importlib import resources
from typing import Any

from pydantic import Field

from modelium.models import GIB, Frozen

_SMALL_GPUS = re.compile(r"A100|A10\b|A10G|L4\b|L40|T4\b|V100|RTX|A40\b|A30\b|A6000|P100|GTX|A2\b")
"""Products for which vLLM uses its smaller defaults, where their memory is not known."""
_LARGE_BYTES = 70 * GIB
"""vLLM's defaults are larger from here on, except on an A100 (``get_batch_defaults``)."""
_HUGE_BYTES = 160 * GIB


class VllmConstants(Frozen):
    """Memory of one vLLM release beyond weights and KV cache: bytes, or factors of its formulas."""

    batched_tokens: int
    """max_num_batched_tokens by default, which profiling runs with."""
    huge_batched_tokens: int | None = None
    """The same from 160 GiB on; ``None``: no difference."""
    in_flight_batches: int = 1
    """Batches whose tokens layers with a window hold at once: 2 with asynchronous scheduling."""
    sequences: int
    sampler_bytes: float
    sampler_fixed: int
    non_torch: tuple[int, int, int]
    expert_workspace: bool
    context: int = 0
    """Of CUDA itself in each process; vLLM counts what the process takes beyond it."""
    graph_fixed: int
    graph_per_layer: int
    graph_per_width: int
    graph_per_expert_layer: int
    forward_hidden: float = 4.3
    """Number of hidden-sized rows that are live at the peak of a forward pass, per token."""


class Overhead(Frozen):
    """Memory of an engine without a profile run, beyond the weights."""

    fixed: int
    torch_fixed: int | None = None
    weights_factor: float = Field(ge=1)


class Margin(Frozen):
    """Margin between the expected use and the reservation: a factor and bytes."""

    relative: float
    absolute: int


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    text = resources.files("modelium.analysis.memory").joinpath("engines.toml").read_text("utf-8")
    return tomllib.loads(text)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d{1,4}", text))


@lru_cache(maxsize=64)
def vllm_constants(
    version: str | None, device_kind: str | None, device_bytes: int | None = None
) -> VllmConstants:
    """Return the constants of the latest known release up to ``version`` (``None``: the newest).

    ``device_kind``: a product name, or ``gpu``/``None`` for a large data-centre GPU.
    ``device_bytes``: its memory, which vLLM's defaults depend on; ``None``: judge by the name.
    """
    table: dict[str, Any] = _table()["vllm"]
    known = sorted(table, key=_version)
    wanted = _version(version or "")
    # A release has the values of those before it, but for what its own table says.
    names = [v for v in known if not wanted or _version(v) <= wanted] or known[:1]
    values: dict[str, Any] = {}
    for name in names:
        values |= table[name]
    if _is_small(device_kind or "", device_bytes):
        values |= _table()["small_gpu"]
    elif device_bytes is not None and device_bytes >= _HUGE_BYTES:
        values["batched_tokens"] = values.get("huge_batched_tokens") or values["batched_tokens"]
    return VllmConstants.model_validate(values)


def _is_small(name: str, total: int | None) -> bool:
    if total is None:
        return _SMALL_GPUS.search(name) is not None
    return total < _LARGE_BYTES or "a100" in name.lower()


@lru_cache(maxsize=16)
def overhead(runtime: str, kind: str) -> Overhead:
    """Return the constants of ``runtime`` on a ``cpu`` or ``gpu``."""
    return Overhead.model_validate(_table()[kind][runtime])


@lru_cache(maxsize=1)
def margin() -> Margin:
    """Return the margin between the expected use and the reservation."""
    return Margin.model_validate(_table()["margin"])


@lru_cache(maxsize=1)
def allowance() -> float:
    """Return the share of weights and activation that is added for unmodelled memory."""
    return float(_table()["allowance"]["share"])
