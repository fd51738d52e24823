"""Writes the folder of a tiny Llama: random weights of 1.6 MB and a byte tokenizer."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

VOCABULARY, HIDDEN, LAYERS, HEADS, INNER, CONTEXT = 260, 128, 2, 2, 256, 512
# 64 elements per head: vLLM's CPU attention has no kernel for fewer than 32.
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "bos_token_id": 256,
    "eos_token_id": 257,
}


def write(folder: Path, *, seed: int = 0) -> Path:
    """Write the model and return its folder."""
    return write_transformers(folder, CONFIG, _weights(seed))


def write_transformers(
    folder: Path, config: Mapping[str, object], weights: Mapping[str, np.ndarray]
) -> Path:
    """Write a transformers folder with the byte tokenizer, and return it.

    ``config`` has a vocabulary of `VOCABULARY` and a context of `CONTEXT`; weights are float32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<s>",
                "eos_token": "</s>",
                "model_max_length": CONTEXT,
            }
        )
    )
    (folder / "model.safetensors").write_bytes(_safetensors(weights))
    return folder


def _safetensors(weights: Mapping[str, np.ndarray]) -> bytes:
    """Return the file: length of the header, header as JSON, data."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in weights.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    data = (np.ascontiguousarray(tensor).tobytes() for tensor in weights.values())
    return struct.pack("<Q", len(encoded)) + encoded + b"".join(data)


def _weights(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (random.standard_normal((rows, columns)) * 0.02).astype(np.float32)

    weights = {
        "model.embed_tokens.weight": matrix(VOCABULARY, HIDDEN),
        "lm_head.weight": matrix(VOCABULARY, HIDDEN),
        "model.norm.weight": np.ones(HIDDEN, np.float32),
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        for name in ("q", "k", "v", "o"):
            weights[f"{at}.self_attn.{name}_proj.weight"] = matrix(HIDDEN, HIDDEN)
        weights[f"{at}.mlp.gate_proj.weight"] = matrix(INNER, HIDDEN)
        weights[f"{at}.mlp.up_proj.weight"] = matrix(INNER, HIDDEN)
        weights[f"{at}.mlp.down_proj.weight"] = matrix(HIDDEN, INNER)
        weights[f"{at}.input_layernorm.weight"] = np.ones(HIDDEN, np.float32)
        weights[f"{at}.post_attention_layernorm.weight"] = np.ones(HIDDEN, np.float32)
    return weights


def _tokenizer() -> dict[str, object]:
    # GPT-2's mapping of bytes to printable characters: 188 bytes map to themselves.
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in own]
    characters = {byte: chr(byte) for byte in own} | {
        byte: chr(256 + place) for place, byte in enumerate(others)
    }
    vocabulary = {characters[byte]: byte for byte in range(256)}
    special = {"<s>": 256, "</s>": 257}
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": number,
                "content": word,
                "special": True,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
            for word, number in special.items()
        ],
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {"type": "BPE", "vocab": vocabulary | special, "merges": []},
    }
