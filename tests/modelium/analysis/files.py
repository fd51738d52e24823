"""Makes model files for the tests: small, real where a reader reads, sparse where size counts."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from modelium.analysis import analyze
from modelium.analysis.readers.safetensors_header import BITS
from modelium.errors import DropRejected
from modelium.models import ModelProfile, RuntimeName

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 256,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}

Tensors = Mapping[str, tuple[str, Sequence[int]]]


def write_json(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def header_of(tensors: Tensors) -> tuple[bytes, int]:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * BITS[dtype] // 8
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [position, position + size],
        }
        position += size
    return json.dumps(header).encode(), position


def write_safetensors(path: Path, tensors: Tensors) -> Path:
    """A real header and a hole for the tensors."""
    header, size = header_of(tensors)
    return write_raw_safetensors(path, header, size)


def write_raw_safetensors(
    path: Path, header: bytes, data: int, *, length: int | None = None
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header) if length is None else length) + header)
        file.truncate(8 + len(header) + data)
    return path


def llama_tensors(config: Mapping[str, Any] = LLAMA, dtype: str = "BF16") -> dict[str, Any]:
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    dim = hidden // config["num_attention_heads"]
    kv = config["num_key_value_heads"] * dim
    tensors: dict[str, Any] = {
        "model.embed_tokens.weight": (dtype, (config["vocab_size"], hidden)),
        "model.norm.weight": (dtype, (hidden,)),
        "lm_head.weight": (dtype, (config["vocab_size"], hidden)),
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for name, shape in {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (wide, hidden),
            "mlp.up_proj": (wide, hidden),
            "mlp.down_proj": (hidden, wide),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }.items():
            tensors[f"{prefix}.{name}.weight"] = (dtype, shape)
    return tensors


def llama_folder(folder: Path, *, shards: int = 1, **changes: Any) -> Path:
    config = {**LLAMA, **changes}
    write_json(folder / "config.json", config)
    tensors = llama_tensors(config)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors)
        return folder
    weight_map = {}
    names = list(tensors)
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        chosen = names[shard::shards]
        write_safetensors(folder / file, {name: tensors[name] for name in chosen})
        weight_map |= dict.fromkeys(chosen, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    return folder


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def write_gguf(
    path: Path,
    *,
    metadata: Mapping[str, Any],
    tensors: Sequence[tuple[str, Sequence[int], int, int]] = (),
    data: int = 0,
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> Path:
    """``tensors``: name, shape, ggml type, offset."""
    out = b"GGUF" + struct.pack("<I", version)
    out += struct.pack("<QQ", *(counts or (len(tensors), len(metadata))))
    for key, value in metadata.items():
        out += text(key)
        if isinstance(value, str):
            out += struct.pack("<I", 8) + text(value)
        elif isinstance(value, list):
            out += struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        elif isinstance(value, float):
            out += struct.pack("<If", 6, value)
        else:
            out += struct.pack("<II", 4, value)
    for name, shape, kind, offset in tensors:
        out += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        out += struct.pack("<IQ", kind, offset)
    path.parent.mkdir(parents=True, exist_ok=True)
    start = -(-len(out) // 32) * 32
    with path.open("wb") as file:
        file.write(out)
        file.truncate(start + data)
    return path


GGUF_METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.file_type": 15,
    "general.license": "apache-2.0",
    "llama.block_count": 2,
    "llama.embedding_length": 256,
    "llama.attention.head_count": 8,
    "llama.attention.head_count_kv": 2,
    "llama.feed_forward_length": 512,
    "llama.context_length": 4096,
    "tokenizer.ggml.tokens": ["a", "b", "c"],
    "tokenizer.chat_template": "{{ messages }}",
}


def gguf_folder(folder: Path) -> Path:
    # 256 × 256 in Q4_K: 256 blocks of 144 bytes.
    write_gguf(
        folder / "model.gguf",
        metadata=GGUF_METADATA,
        tensors=[("blk.0.attn_q.weight", (256, 256), 12, 0)],
        data=256 * 144,
    )
    return folder


def onnx_model(*, rank: int = 2, external: str | None = None) -> bytes:
    """A real ONNX model: Y = X · W, with W outside the file where ``external`` is given."""
    import onnx
    from onnx import TensorProto, helper

    weight = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=[8, 4])
    if external is None:
        weight.raw_data = bytes(8 * 4 * 4)
    else:
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", external), ("offset", "0"), ("length", "128")):
            weight.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["X", "W"], ["Y"])],
        "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["batch", 4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[onnx.OperatorSetIdProto(version=17)])
    data: bytes = model.SerializeToString()
    return data


PBTXT = """
name: "simple"
backend: "onnxruntime"
max_batch_size: 8
input [ { name: "X" data_type: TYPE_FP32 dims: [ 8 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 4 ] } ]
dynamic_batching { }
instance_group [ { count: 2 kind: KIND_CPU } ]
"""


def triton_folder(folder: Path, pbtxt: str = PBTXT) -> Path:
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(pbtxt)
    (folder / "1" / "model.onnx").write_bytes(onnx_model())
    return folder


def reason_of(path: Path, *, approvals: frozenset[str] = frozenset()) -> str:
    with pytest.raises(DropRejected) as caught:
        analyze(path, approvals=approvals)
    return caught.value.reason


def supported(profile: ModelProfile) -> set[RuntimeName]:
    return {support.runtime for support in profile.runtimes if support.supported}


# --- ONNX ---------------------------------------------------------------------------------
