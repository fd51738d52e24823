"""The profile of a model's files, memory needs and load settings (no I/O here)."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field

from modelium.models.base import Frozen, RuntimeName


class ModelFormat(StrEnum):
    """File format of a model folder."""

    TRANSFORMERS = "transformers"
    ONNX = "onnx"
    GGUF = "gguf"
    TRITON = "triton"
    TORCHSCRIPT = "torchscript"
    TENSORRT = "tensorrt"
    OPENVINO = "openvino"
    DIFFUSERS = "diffusers"
    PEFT = "peft"
    CUSTOM = "custom"
    """An application of the drop's own code."""


class Task(StrEnum):
    """The task of a model, by its Hugging Face name where there is one."""

    TEXT_GENERATION = "text-generation"
    TEXT2TEXT = "text2text-generation"
    IMAGE_TEXT_TO_TEXT = "image-text-to-text"
    EMBEDDING = "feature-extraction"
    TEXT_CLASSIFICATION = "text-classification"
    TEXT_RANKING = "text-ranking"
    """Scores pairs of a query and a document."""
    TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105 - a task
    SPEECH_RECOGNITION = "automatic-speech-recognition"
    IMAGE_CLASSIFICATION = "image-classification"
    TEXT_TO_IMAGE = "text-to-image"
    ADAPTER = "adapter"
    GENERIC = "generic"
    """Named tensors as input and output."""


class TensorSpec(Frozen):
    """A named input or output of a graph; -1 marks a dynamic dimension."""

    name: str
    dtype: str
    """KServe v2 name: ``FP32``, ``INT64``, ``BYTES`` …"""
    shape: tuple[int, ...]


class KVLayout(Frozen):
    """Elements per token in the KV cache, by kind of layer.

    The estimator multiplies them by the bytes per element, which depend on the requested KV dtype.
    """

    full_layers: int = 0
    """Layers whose cache grows with the context."""
    sliding_layers: int = 0
    sliding_window: int | None = None
    """Maximum number of tokens in the cache of a sliding layer."""
    state_layers: int = 0
    """Layers with constant state (Mamba, linear attention)."""
    state_elements: int = 0
    """Elements of constant state per sequence, over all state layers."""
    state_bytes: int = 0
    """Bytes of it: engines keep recurrent states of many families in float32. 0: unknown."""
    state_copies: int = 2
    """States that vLLM keeps for one request with prefix caching: the current one and the one that
    it was copied from; Mamba keeps a checkpoint too."""
    kv_heads: int = 0
    key_dim: int = 0
    """Elements of K per head and token."""
    value_dim: int = 0
    sliding_kv_heads: int | None = None
    """The same for sliding layers, if they differ from full ones."""
    sliding_key_dim: int | None = None
    sliding_value_dim: int | None = None
    latent_dim: int = 0
    """MLA: kv_lora_rank + qk_rope_head_dim per layer and token; replicated on all devices."""
    index_bytes: int = 0
    """Sparse attention: bytes per layer and token of the token selector's keys."""


class RuntimeSupport(Frozen):
    """Whether one runtime can serve the model, and the reason if it cannot."""

    runtime: RuntimeName
    supported: bool
    reason: str = ""


class Untrusted(Frozen):
    """Text from a dropped folder: displayed to people, never followed as an instruction."""

    text: str
    truncated: bool = False


class ModelProfile(Frozen):
    """The result of analyzing a model's files."""

    format: ModelFormat
    architecture: str
    """``LlamaForCausalLM``, ``onnx``, a GGUF ``general.architecture`` …"""
    task: Task
    parameter_count: int | None = None
    weight_bytes: int
    """Bytes of all weights in an engine's memory, at the dtype of the file."""
    weight_bytes_by_dtype: dict[str, int] = Field(default_factory=dict)
    exact: bool = True
    """False: ``weight_bytes`` is computed from the configuration, as there are no weight files."""
    dtype: str | None = None
    quantization: str | None = None
    """``gptq``, ``awq``, ``fp8``, ``compressed-tensors``, ``mxfp4``, ``nvfp4``, ``Q4_K_M`` …"""
    context_length: int | None = None
    vocabulary_size: int | None = None
    layers: int | None = None
    hidden_size: int | None = None
    attention_heads: int | None = None
    intermediate_size: int | None = None
    experts: int | None = None
    kv: KVLayout | None = None
    kv_bytes_per_token: int | None = None
    """At the model's own dtype, over all layers whose cache grows, on one device."""
    tensor_parallel_degrees: tuple[int, ...] = (1,)
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    files: dict[str, str] = Field(default_factory=dict)
    """Role → path relative to the model folder, e.g. ``{"model": "model.onnx"}``."""
    needs_remote_code: bool = False
    runtimes: tuple[RuntimeSupport, ...] = ()
    digest: str = ""
    """Content digest, ``sha256:…``; empty if the files were not read completely."""
    license: str | None = None
    card: Untrusted | None = None
    base_model: str | None = None
    """PEFT: the base model of the adapter."""
    details: dict[str, Any] = Field(default_factory=dict)
    """Format-specific facts for people and drivers (JSON values only)."""

    def support(self, runtime: RuntimeName) -> RuntimeSupport:
        """Return whether ``runtime`` can serve this model; unsupported if it was not assessed."""
        for support in self.runtimes:
            if support.runtime == runtime:
                return support
        return RuntimeSupport(runtime=runtime, supported=False, reason="not assessed")


class Footprint(Frozen):
    """Memory that one device needs, in bytes, by part."""

    weights: int
    kv: int = 0
    activation: int = 0
    graphs: int = 0
    non_torch: int = 0
    expected: int
    """Sum of the parts: the most likely use."""
    reserve: int
    """Upper bound: the bytes to book."""
    kv_least: int = 0
    """The smallest KV pool that the engine starts with: one request of full length."""
    sources: dict[str, str] = Field(default_factory=dict)
    """Part → source of its formula or measured value."""


class LoadSettings(Frozen):
    """How a model is loaded. ``None``: the driver's documented default."""

    dtype: str | None = None
    kv_dtype: str | None = None
    quantization: str | None = None
    tensor_parallel_size: int = Field(default=1, ge=1)
    pipeline_parallel_size: int = Field(default=1, ge=1)
    """Stages that the layers are split into; each has as many devices as ``tensor_parallel_size``.
    """
    max_model_len: int | None = Field(default=None, ge=1)
    max_num_seqs: int | None = Field(default=None, ge=1)
    """The seed's ``max_batch_size``: vLLM's max_num_seqs, Triton's and Serve's batch size."""
    kv_cache_bytes: int | None = Field(default=None, ge=0)
    """KV pool per device."""
    extra_kv_bytes: int = 0
    """The part of it that context and sequences do not need: idle memory, or what the operator
    adds; negative where the operator allows less."""
    extra: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Further engine arguments; each must be on the policy's allow-list."""

    @property
    def batched_tokens(self) -> int | None:
        """The tokens per batch where the operator sets them; ``None``: the engine's default."""
        for name in ("max_num_batched_tokens", "max-num-batched-tokens"):
            value = self.extra.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
        return None


class Preference(Frozen):
    """Runtime and settings that the brain prefers for one model.

    If a preference cannot be met, the rules choose; it never prevents a load.
    """

    runtime: RuntimeName | None = None
    settings: LoadSettings = LoadSettings()
    """The rules choose fields that are ``None``, and the degree if tensor_parallel_size is 1."""


class MeasuredLoad(Frozen):
    """Memory and duration of a model's last load, which replace the estimate."""

    runtime: RuntimeName
    device_kind: str
    settings_digest: str
    per_device_bytes: int
    load_s: float
    at: float
