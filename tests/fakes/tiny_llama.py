"""Writes the folders of a tiny Llama and a tiny GPT-2, with the tokenizer of the self-test's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from modelium.selftest.samples import llama

write = llama.write


def write_gpt2(folder: Path) -> Path:
    """Write the seed's `GPT2LMHeadModel`, as small as the Llama, and return its folder."""
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": llama.HIDDEN,
        "n_layer": llama.LAYERS,
        "n_head": llama.HEADS,
        "n_positions": llama.CONTEXT,
        "vocab_size": llama.VOCABULARY,
        "torch_dtype": "float32",
        "bos_token_id": 256,
        "eos_token_id": 257,
    }
    random = np.random.default_rng(0)
    shapes = {"wte": (llama.VOCABULARY, llama.HIDDEN), "wpe": (llama.CONTEXT, llama.HIDDEN)}
    norms, biased = ["ln_f"], {}
    for at in (f"h.{layer}" for layer in range(llama.LAYERS)):
        norms += [f"{at}.ln_1", f"{at}.ln_2"]
        # GPT-2 stores its matrices transposed: inputs × outputs.
        biased[f"{at}.attn.c_attn"] = (llama.HIDDEN, 3 * llama.HIDDEN)
        biased[f"{at}.attn.c_proj"] = (llama.HIDDEN, llama.HIDDEN)
        biased[f"{at}.mlp.c_fc"] = (llama.HIDDEN, 4 * llama.HIDDEN)
        biased[f"{at}.mlp.c_proj"] = (4 * llama.HIDDEN, llama.HIDDEN)
    weights = {
        f"transformer.{name}.weight": (random.standard_normal(shape) * 0.02).astype(np.float32)
        for name, shape in (shapes | biased).items()
    }
    weights |= {f"transformer.{n}.bias": np.zeros(s[1], np.float32) for n, s in biased.items()}
    weights |= {f"transformer.{n}.weight": np.ones(llama.HIDDEN, np.float32) for n in norms}
    weights |= {f"transformer.{n}.bias": np.zeros(llama.HIDDEN, np.float32) for n in norms}
    return llama.write_transformers(folder, config, weights)
