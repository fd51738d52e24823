"""Writes a GGUF file of a tiny Llama: random float32 weights and a byte vocabulary (1 MB).

The format is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

HIDDEN, LAYERS, HEADS, INNER, CONTEXT = 128, 2, 2, 256, 512
ALIGNMENT = 32
UINT32, INT32, FLOAT32, STRING, ARRAY = 4, 5, 6, 8, 9
"""Types of metadata values."""

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
"""Types of tokens."""

Value = tuple[int, object]


def write(folder: Path) -> Path:
    """Write ``model.gguf`` and return its folder."""
    tokens = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
    tokens += [(f"<0x{byte:02X}>", BYTE) for byte in range(256)]
    tokens += [("▁", NORMAL)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.gguf").write_bytes(_file(_metadata(tokens), _weights(len(tokens))))
    return folder


def _metadata(tokens: Sequence[tuple[str, int]]) -> dict[str, Value]:
    return {
        "general.architecture": (STRING, "llama"),
        "general.name": (STRING, "self-test"),
        "llama.context_length": (UINT32, CONTEXT),
        "llama.embedding_length": (UINT32, HIDDEN),
        "llama.block_count": (UINT32, LAYERS),
        "llama.feed_forward_length": (UINT32, INNER),
        "llama.attention.head_count": (UINT32, HEADS),
        "llama.attention.head_count_kv": (UINT32, HEADS),
        "llama.attention.layer_norm_rms_epsilon": (FLOAT32, 1e-5),
        "llama.rope.dimension_count": (UINT32, HIDDEN // HEADS),
        "tokenizer.ggml.model": (STRING, "llama"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, [token for token, _ in tokens])),
        "tokenizer.ggml.scores": (ARRAY, (FLOAT32, [0.0] * len(tokens))),
        "tokenizer.ggml.token_type": (ARRAY, (INT32, [kind for _, kind in tokens])),
        "tokenizer.ggml.unknown_token_id": (UINT32, 0),
        "tokenizer.ggml.bos_token_id": (UINT32, 1),
        "tokenizer.ggml.eos_token_id": (UINT32, 2),
    }


def _weights(vocabulary: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (random.standard_normal((rows, columns)) * 0.02).astype(np.float32)

    weights = {
        "token_embd.weight": matrix(vocabulary, HIDDEN),
        "output.weight": matrix(vocabulary, HIDDEN),
        "output_norm.weight": np.ones(HIDDEN, np.float32),
    }
    for at in (f"blk.{layer}" for layer in range(LAYERS)):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            weights[f"{at}.{name}.weight"] = matrix(HIDDEN, HIDDEN)
        weights[f"{at}.ffn_gate.weight"] = matrix(INNER, HIDDEN)
        weights[f"{at}.ffn_up.weight"] = matrix(INNER, HIDDEN)
        weights[f"{at}.ffn_down.weight"] = matrix(HIDDEN, INNER)
        weights[f"{at}.attn_norm.weight"] = np.ones(HIDDEN, np.float32)
        weights[f"{at}.ffn_norm.weight"] = np.ones(HIDDEN, np.float32)
    return weights


def _file(metadata: Mapping[str, Value], weights: Mapping[str, np.ndarray]) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(weights), len(metadata))
    for key, (kind, value) in metadata.items():
        head += _string(key) + struct.pack("<I", kind) + _value(kind, value)
    data = b""
    for name, tensor in weights.items():
        data += b"\0" * (-len(data) % ALIGNMENT)
        # The fastest dimension comes first. Type 0 is float32.
        head += _string(name) + struct.pack("<I", tensor.ndim)
        head += struct.pack(f"<{tensor.ndim}Q", *reversed(tensor.shape))
        head += struct.pack("<IQ", 0, len(data))
        data += tensor.tobytes()
    return head + b"\0" * (-len(head) % ALIGNMENT) + data


def _value(kind: int, value: object) -> bytes:
    if kind == STRING:
        return _string(str(value))
    if kind == ARRAY:
        assert isinstance(value, tuple)  # noqa: S101 - of `_metadata`
        element, values = value
        return struct.pack("<IQ", element, len(values)) + b"".join(
            _value(element, one) for one in values
        )
    return struct.pack({UINT32: "<I", INT32: "<i", FLOAT32: "<f"}[kind], value)


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded
