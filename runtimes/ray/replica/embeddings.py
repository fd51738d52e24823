"""Sentence embeddings with transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from runtimes.ray.replica.checkpoint import (
    TEXT,
    load_tokenizer,
    load_weights,
    read_json,
    texts_of,
)
from runtimes.ray.replica.tensors import Array, BadRequest, Spec

CHUNK = 32
"""Texts of one pass: bounds the memory that a request needs."""


class EmbeddingModel:
    """Sentence embeddings as sentence-transformers computes them.

    Follows ``modules.json`` (Transformer, Pooling, Dense, Normalize); a folder without it gets
    mean pooling and normalization. Texts that are too long are truncated, as in
    sentence-transformers.
    """

    platform = "transformers"
    inputs = TEXT
    batches = True

    def __init__(self, *, path: Path, device: str, dtype: str | None, remote_code: bool) -> None:
        """Load the model and its pooling."""
        import torch

        modules = read_json(path / "modules.json") or []
        folder = path
        self._pooling: dict[str, Any] = {"pooling_mode_mean_tokens": True}
        self._dense: list[tuple[Any, Any, Any]] = []
        self._normalize = not modules
        for module in modules:
            kind = module["type"].rpartition(".")[2]
            inside = path / module["path"]
            if kind == "Transformer":
                folder = inside
            elif kind == "Pooling":
                self._pooling = read_json(inside / "config.json") or self._pooling
            elif kind == "Dense":
                self._dense.append(_dense(inside, device))
            elif kind == "Normalize":
                self._normalize = True
            else:
                raise ValueError(f"unsupported: sentence-transformers module {module['type']}")
        self._pool = _pooling_mode(self._pooling)
        self._prompt = _default_prompt(path)
        self._device = device
        self.tokenizer = load_tokenizer(folder, remote_code=remote_code)
        self._model = load_weights(
            "AutoModel", folder, device=device, dtype=dtype, remote_code=remote_code
        )
        self._limit = self._max_tokens(read_json(folder / "sentence_bert_config.json") or {})
        with torch.inference_mode():
            width = self.embed(["width"])[0].shape[1]
        self.outputs: tuple[Spec, ...] = (
            Spec(name="embedding", datatype="FP32", shape=(-1, width)),
        )

    def embed(self, texts: list[str] | list[list[int]]) -> tuple[Array, list[int]]:
        """Return embeddings [texts, width] in float32, and the number of tokens of each text.

        Raises:
            BadRequest: a token id is not in the vocabulary.
        """
        parts = [self._embed(texts[at : at + CHUNK]) for at in range(0, len(texts), CHUNK)]
        counts = [count for _, numbers in parts for count in numbers]
        return np.concatenate([vectors for vectors, _ in parts]), counts

    def _embed(self, texts: list[Any]) -> tuple[Array, list[int]]:
        import torch

        batch = self._encode(texts).to(self._device)
        attention = batch["attention_mask"]
        with torch.inference_mode():
            tokens = self._model(**batch).last_hidden_state
            vectors = _pool(tokens.float(), attention, self._pool)
            for weight, bias, activation in self._dense:
                vectors = activation(torch.nn.functional.linear(vectors, weight, bias))
            if self._normalize:
                vectors = torch.nn.functional.normalize(vectors, dim=-1)
        return vectors.float().cpu().numpy(), attention.sum(1).tolist()

    def infer(self, tensors: dict[str, Array], parameters: dict[str, Any]) -> dict[str, Array]:
        """Return the ``embedding`` of each ``text``."""
        return {"embedding": self.embed(texts_of(tensors))[0]}

    def _encode(self, texts: list[Any]) -> Any:
        if isinstance(texts[0], str):
            return self.tokenizer(
                [self._prompt + text for text in texts],
                padding=True,
                truncation=True,
                max_length=self._limit,
                return_tensors="pt",
            )
        size = self._model.config.vocab_size
        if not all(0 <= token < size for ids in texts for token in ids):
            raise BadRequest(f"token ids must be 0 to {size - 1}")
        entries = [{"input_ids": ids[: self._limit]} for ids in texts]
        return self.tokenizer.pad(entries, padding=True, return_tensors="pt")

    def _max_tokens(self, bert: dict[str, Any]) -> int:
        """Return the number of tokens that texts are truncated to."""
        config = self._model.config
        bounds = [
            bert.get("max_seq_length"),
            getattr(config, "max_position_embeddings", None),
            self.tokenizer.model_max_length,
        ]
        return min(int(bound) for bound in bounds if bound)


def _pooling_mode(config: dict[str, Any]) -> str:
    modes = [
        name.removeprefix("pooling_mode_")
        for name, chosen in config.items()
        if name.startswith("pooling_mode_") and chosen is True
    ]
    known = {"mean_tokens", "cls_token", "max_tokens", "mean_sqrt_len_tokens", "lasttoken"}
    if len(modes) != 1 or modes[0] not in known:
        raise ValueError(f"unsupported: pooling {modes}")
    return modes[0]


def _pool(tokens: Any, attention: Any, mode: str) -> Any:
    """Pool [texts, tokens, width] to [texts, width], ignoring padding."""
    mask = attention.unsqueeze(-1).to(tokens.dtype)
    if mode == "cls_token":
        return tokens[:, 0]
    if mode == "max_tokens":
        return tokens.masked_fill(mask == 0, float("-inf")).amax(1)
    if mode == "lasttoken":
        import torch

        # The last attended position, on whichever side the padding is.
        places = torch.arange(attention.shape[1], device=attention.device)
        last = (attention * places).argmax(1)
        return tokens[torch.arange(len(tokens), device=tokens.device), last]
    count = mask.sum(1).clamp(min=1)
    return (tokens * mask).sum(1) / (count.sqrt() if mode == "mean_sqrt_len_tokens" else count)


def _dense(folder: Path, device: str) -> tuple[Any, Any, Any]:
    """Load weight, bias and activation of a Dense module."""
    import torch
    from safetensors.torch import load_file

    config = read_json(folder / "config.json") or {}
    name = str(config.get("activation_function", "")).rpartition(".")[2]
    activations: dict[str, Any] = {"Tanh": torch.tanh, "Identity": lambda x: x, "": torch.tanh}
    if name not in activations:
        raise ValueError(f"unsupported: activation {name} of a Dense module")
    weights = load_file(str(folder / "model.safetensors"), device=device)
    bias = weights.get("linear.bias")
    return weights["linear.weight"].float(), bias, activations[name]


def _default_prompt(path: Path) -> str:
    config = read_json(path / "config_sentence_transformers.json") or {}
    prompts = config.get("prompts") or {}
    return str(prompts.get(config.get("default_prompt_name"), ""))
