"""A BERT in GGUF of a few kilobytes, with random weights, that llama.cpp's server loads."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

WIDTH, INNER, CONTEXT, LAYERS = 32, 64, 64, 1
MEAN, RANK = 1, 4
"""llama.cpp's pooling types of an embedding model and of a reranker."""
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁a", "▁b", "▁1", "▁sentence"]
BLOCK = 32


def write(folder: Path, *, pooling: int = MEAN) -> Path:
    """Write ``folder``/model.gguf and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata: dict[str, object] = {
        "general.architecture": "bert",
        "bert.context_length": CONTEXT,
        "bert.embedding_length": WIDTH,
        "bert.feed_forward_length": INNER,
        "bert.block_count": LAYERS,
        "bert.attention.head_count": 2,
        "bert.attention.layer_norm_epsilon": 1e-12,
        "bert.attention.causal": False,
        "bert.pooling_type": pooling,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.mask_token_id": 4,
    }
    tensors = _tensors(pooling)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(_text(key) + _value(value) for key, value in metadata.items())
    data = b""
    for name, tensor in tensors.items():
        # Dimensions are written from the innermost on; type 0 is float32.
        shape = tensor.shape[::-1]
        head += _text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += struct.pack("<IQ", 0, len(data))
        data += _padded(tensor.astype("<f4").tobytes())
    (folder / "model.gguf").write_bytes(_padded(head) + data)
    return folder


def _tensors(pooling: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)

    def matrix(*shape: int) -> np.ndarray:
        return random.normal(0, 0.5, shape)

    found = {
        "token_embd.weight": matrix(len(TOKENS), WIDTH),
        "position_embd.weight": matrix(CONTEXT, WIDTH),
        "token_types.weight": matrix(2, WIDTH),
        **_norm("token_embd_norm"),
    }
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            found[f"blk.{layer}.{name}.weight"] = matrix(WIDTH, WIDTH)
            found[f"blk.{layer}.{name}.bias"] = matrix(WIDTH)
        found |= {
            f"blk.{layer}.ffn_up.weight": matrix(INNER, WIDTH),
            f"blk.{layer}.ffn_up.bias": matrix(INNER),
            f"blk.{layer}.ffn_down.weight": matrix(WIDTH, INNER),
            f"blk.{layer}.ffn_down.bias": matrix(WIDTH),
            **_norm(f"blk.{layer}.attn_output_norm"),
            **_norm(f"blk.{layer}.layer_output_norm"),
        }
    if pooling == RANK:
        found["cls.output.weight"] = matrix(1, WIDTH)
        found["cls.output.bias"] = matrix(1)
    return found


def _norm(name: str) -> dict[str, np.ndarray]:
    return {f"{name}.weight": np.ones(WIDTH), f"{name}.bias": np.zeros(WIDTH)}


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: object) -> bytes:
    match value:
        case bool():
            return struct.pack("<IB", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case list():
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
    return struct.pack("<I", 8) + _text(str(value))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)
