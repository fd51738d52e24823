"""The properties in which the serving runtimes differ, one descriptor for each (no I/O here)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from modelium.models.base import Api, RuntimeName
from modelium.models.profile import ModelFormat, Task

KVCache = Literal["pool", "per-sequence", "one-sequence"]
"""How a runtime allocates its KV cache: one pool that is allocated at start-up, one cache for each
concurrent sequence, or one cache that all sequences share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeDescriptor:
    """Properties of one runtime that planning, analysis and drivers use."""

    name: RuntimeName
    label: str
    """The runtime's official name, for messages."""
    formats: frozenset[ModelFormat]
    """Formats that it can serve."""
    tasks: frozenset[Task] = frozenset()
    """Tasks of the transformers folders that it can serve."""
    apis: frozenset[Api]
    """APIs that it offers. A single model may have fewer."""
    tensor_parallel: bool = False
    """Whether one model can be split over several devices."""
    can_sleep: bool = False
    """Whether its engines can release device memory without ending their process."""
    shares_process: bool = False
    """Whether one server holds all its models in its own process."""
    kv_cache: KVCache
    takes_context_length: bool = False
    """Whether ``max_model_len`` changes how a model is loaded."""
    start_s: float
    """Seconds to start a model, before any weights are read."""


VLLM = RuntimeDescriptor(
    name=RuntimeName.VLLM,
    label="vLLM",
    formats=frozenset({ModelFormat.TRANSFORMERS}),
    tasks=frozenset(
        {
            Task.TEXT_GENERATION,
            Task.IMAGE_TEXT_TO_TEXT,
            Task.EMBEDDING,
            Task.TEXT_CLASSIFICATION,
            Task.TEXT_RANKING,
            Task.SPEECH_RECOGNITION,
        }
    ),
    apis=frozenset({"openai"}),
    tensor_parallel=True,
    takes_context_length=True,
    can_sleep=True,
    kv_cache="pool",
    start_s=40.0,
)
TRITON = RuntimeDescriptor(
    name=RuntimeName.TRITON,
    label="Triton",
    formats=frozenset(
        {
            ModelFormat.ONNX,
            ModelFormat.TORCHSCRIPT,
            ModelFormat.TENSORRT,
            ModelFormat.OPENVINO,
            ModelFormat.TRITON,
        }
    ),
    apis=frozenset({"kserve"}),
    shares_process=True,
    kv_cache="one-sequence",
    start_s=2.0,
)
RAY_SERVE = RuntimeDescriptor(
    name=RuntimeName.RAY_SERVE,
    label="Ray Serve",
    formats=frozenset(
        {
            ModelFormat.ONNX,
            ModelFormat.DIFFUSERS,
            ModelFormat.TRANSFORMERS,
            ModelFormat.CUSTOM,
        }
    ),
    tasks=frozenset(
        {
            Task.TEXT_GENERATION,
            Task.EMBEDDING,
            Task.TEXT_CLASSIFICATION,
            Task.TEXT_RANKING,
            Task.TOKEN_CLASSIFICATION,
        }
    ),
    apis=frozenset({"openai", "kserve", "generic"}),
    kv_cache="per-sequence",
    start_s=8.0,
)
LLAMA_CPP = RuntimeDescriptor(
    name=RuntimeName.LLAMA_CPP,
    label="llama.cpp",
    formats=frozenset({ModelFormat.GGUF}),
    takes_context_length=True,
    apis=frozenset({"openai"}),
    kv_cache="one-sequence",
    start_s=3.0,
)

RUNTIMES: Mapping[RuntimeName, RuntimeDescriptor] = MappingProxyType(
    {runtime.name: runtime for runtime in (VLLM, TRITON, RAY_SERVE, LLAMA_CPP)}
)
"""The descriptor of every `RuntimeName`."""
