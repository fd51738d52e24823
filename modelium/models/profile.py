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


class Task(StrEnum):
    """What a model does; Hugging Face's task name where there is one."""

    TEXT_GENERATION = "text-generation"
    TEXT2TEXT = "text2text-generation"
    IMAGE_TEXT_TO_TEXT = "image-text-to-text"
    EMBEDDING = "feature-extraction"
    TEXT_CLASSIFICATION = "text-classification"
    TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105 - a task
    SPEECH_RECOGNITION = "automatic-speech-recognition"
    IMAGE_CLASSIFICATION = "image-classification"
    TEXT_TO_IMAGE = "text-to-image"
    ADAPTER = "adapter"
    GENERIC = "generic"
    """Named tensors in, named tensors out."""


class TensorSpec(Frozen):
    """One named input or output of a graph; -1 marks a dynamic dimension."""

    name: str
    dtype: str
    """KServe v2 name: ``FP32``, ``INT64``, ``BYTES`` …"""
    shape: tuple[int, ...]


class KVLayout(Frozen):
    """Elements per token in the KV cache, by kind of layer.

    ``bytes_per_element`` is applied by the estimator (it depends on the KV dtype asked for).
    """

    full_layers: int = 0
    """Layers whose cache grows with the context."""
    sliding_layers: int = 0
    sliding_window: int | None = None
    """Tokens that a sliding layer keeps at most."""
    state_layers: int = 0
    """Layers with constant state (Mamba, linear attention)."""
    state_elements: int = 0
    """Elements of constant state per sequence, over all state layers."""
    kv_heads: int = 0
    key_dim: int = 0
    """Elements of K per head and token."""
    value_dim: int = 0
    sliding_kv_heads: int | None = None
    """Where sliding layers differ from full ones."""
    sliding_key_dim: int | None = None
    sliding_value_dim: int | None = None
    latent_dim: int = 0
    """MLA: kv_lora_rank + qk_rope_head_dim, per layer and token, not split by tensor parallel."""


class RuntimeSupport(Frozen):
    """Whether one runtime can serve the model, and why not where it cannot."""

    runtime: RuntimeName
    supported: bool
    reason: str = ""


class Untrusted(Frozen):
    """Text from a dropped folder: shown to people, never followed as an instruction."""

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
    """Bytes of all weights as an engine holds them at the file's dtype."""
    weight_bytes_by_dtype: dict[str, int] = Field(default_factory=dict)
    exact: bool = True
    """False: computed from the configuration because there are no weight files."""
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
    """At the model's own dtype, over all layers that grow with the context, on one device."""
    tensor_parallel_degrees: tuple[int, ...] = (1,)
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    files: dict[str, str] = Field(default_factory=dict)
    """Role → path relative to the model folder, e.g. ``{"model": "model.onnx"}``."""
    needs_remote_code: bool = False
    runtimes: tuple[RuntimeSupport, ...] = ()
    digest: str = ""
    """Content digest, ``sha256:…``; empty where the files were not read whole."""
    license: str | None = None
    card: Untrusted | None = None
    base_model: str | None = None
    """PEFT: the model that the adapter belongs to."""
    details: dict[str, Any] = Field(default_factory=dict)
    """Format-specific facts for people and drivers (JSON values only)."""

    def support(self, runtime: RuntimeName) -> RuntimeSupport:
        """Return whether ``runtime`` can serve this model; unsupported where it is not assessed."""
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
    """Upper bound: the bytes that a reservation books."""
    sources: dict[str, str] = Field(default_factory=dict)
    """Part → where its formula or measured value comes from."""


class LoadSettings(Frozen):
    """How a model is loaded. ``None``: the driver's documented default."""

    dtype: str | None = None
    kv_dtype: str | None = None
    quantization: str | None = None
    tensor_parallel_size: int = Field(default=1, ge=1)
    max_model_len: int | None = Field(default=None, ge=1)
    max_num_seqs: int | None = Field(default=None, ge=1)
    """The seed's ``max_batch_size``: vLLM's max_num_seqs, Triton's and Serve's batch size."""
    kv_cache_bytes: int | None = Field(default=None, ge=0)
    """KV pool per device."""
    extra: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Further engine arguments; each must be on the policy's allow-list."""


class Preference(Frozen):
    """Preferred runtime and settings of one model, as the brain found them.

    Where a preference cannot be met, the rules choose: it never keeps a model from loading.
    """

    runtime: RuntimeName | None = None
    settings: LoadSettings = LoadSettings()
    """The rules choose what is ``None`` here, and the degree where tensor_parallel_size is 1."""


class MeasuredLoad(Frozen):
    """Memory and time of a model's last load; replaces the estimate from then on."""

    runtime: RuntimeName
    device_kind: str
    settings_digest: str
    per_device_bytes: int
    load_s: float
    at: float
