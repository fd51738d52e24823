"""Reads transformers folders: weights, tokenizer and configuration.

Weights are read from safetensors only, and code of the folder runs only if it is
approved.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runtimes.ray.replica.tensors import Array, BadRequest, Spec

TEXT: tuple[Spec, ...] = (Spec(name="text", datatype="BYTES", shape=(-1,)),)
"""The input of all text models."""


def load_weights(
    kind: str, folder: Path, *, device: str, dtype: str | None, remote_code: bool
) -> Any:
    """Load a model of one of transformers' auto classes, ready for inference.

    Raises:
        ValueError: the files lack weights of the architecture. Transformers would initialize them
            at random, and the answers would be nonsense.
    """
    import transformers

    model, report = getattr(transformers, kind).from_pretrained(
        str(folder),
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=remote_code,
        dtype=dtype or "auto",
        output_loading_info=True,
    )
    # Many checkpoints lack a pooler, and only classifiers use one here.
    optional = "pooler" if kind == "AutoModel" else "position_ids"
    if missing := sorted(key for key in report["missing_keys"] if optional not in key):
        raise ValueError(f"weights are missing in the files: {', '.join(missing[:5])}")
    return model.to(device).eval()


def read_json(path: Path) -> Any:
    """Return the document; None without such a file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def load_tokenizer(path: Path, *, remote_code: bool) -> Any:
    """Load the tokenizer in ``path``; a decoder without a padding token pads with its end token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        str(path), local_files_only=True, trust_remote_code=remote_code
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def texts_of(tensors: dict[str, Array]) -> list[str]:
    """Return the texts of the input ``text``.

    Raises:
        BadRequest: it is empty or not UTF-8.
    """
    if not tensors["text"].size:
        raise BadRequest("input 'text' is empty")
    try:
        return [item.decode() for item in tensors["text"].ravel()]
    except UnicodeDecodeError as exc:
        raise BadRequest("input 'text' must be UTF-8") from exc
