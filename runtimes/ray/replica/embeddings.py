"""Transformers models over text: embeddings, classification, and any text pipeline.

Weights are read from safetensors only, and code in the folder is not run unless approved.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.ray.replica.tensors import Array, BadRequest, Spec

TEXT: tuple[Spec, ...] = (Spec(name="text", datatype="BYTES", shape=(-1,)),)
PIPELINES = {
    "text-generation": "AutoModelForCausalLM",
    "token-classification": "AutoModelForTokenClassification",
}
CHUNK = 32
"""Texts of one pass through an embedder: bounds memory, whatever a request brings."""
GENERATION = frozenset({"max_new_tokens", "temperature", "top_k", "top_p", "do_sample"})
"""Request parameters that a text-generation pipeline takes."""
MAX_NEW_TOKENS = 1024
"""Upper bound of one answer; engines for long text are vLLM and llama.cpp."""


def load_weights(
    kind: str, folder: Path, *, device: str, dtype: str | None, remote_code: bool
) -> Any:
    """A model of one of transformers' auto classes, ready for inference.

    Raises:
        ValueError: weights that the architecture needs are not in the files; transformers would
            make them up at random, and the model would answer nonsense.
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
    # Poolers are left out of many checkpoints, and nothing here uses them but a classifier.
    optional = "pooler" if kind == "AutoModel" else "position_ids"
    if missing := sorted(key for key in report["missing_keys"] if optional not in key):
        raise ValueError(f"weights are missing in the files: {', '.join(missing[:5])}")
    return model.to(device).eval()


def read_json(path: Path) -> Any:
    """The document, ``None`` where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def tokenizer_of(path: Path, *, remote_code: bool) -> Any:
    """The tokenizer in ``path``; a padding token is made up where a decoder has none."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        str(path), local_files_only=True, trust_remote_code=remote_code
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


class Embedder:
    """Sentence embeddings as sentence-transformers computes them.

    Follows ``modules.json`` (Transformer, Pooling, Dense, Normalize); a folder without it gets
    mean pooling and normalization. Too long texts are cut, as sentence-transformers does.
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
        self.tokenizer = tokenizer_of(folder, remote_code=remote_code)
        self._model = load_weights(
            "AutoModel", folder, device=device, dtype=dtype, remote_code=remote_code
        )
        self._limit = self._longest(read_json(folder / "sentence_bert_config.json") or {})
        with torch.inference_mode():
            width = self.embed(["width"])[0].shape[1]
        self.outputs: tuple[Spec, ...] = (
            Spec(name="embedding", datatype="FP32", shape=(-1, width)),
        )

    def embed(self, texts: list[str] | list[list[int]]) -> tuple[Array, list[int]]:
        """Embeddings [texts, width] in float32, and how many tokens each text is.

        Raises:
            BadRequest: a token id that the vocabulary does not have.
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
        """``embedding`` of each ``text``."""
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

    def _longest(self, bert: dict[str, Any]) -> int:
        """Tokens that a text is cut to."""
        config = self._model.config
        bounds = [
            bert.get("max_seq_length"),
            getattr(config, "max_position_embeddings", None),
            self.tokenizer.model_max_length,
        ]
        return min(int(bound) for bound in bounds if bound)


class Classifier:
    """Text classification: the likeliest label, its score, and the scores of all labels."""

    platform = "transformers"
    inputs = TEXT
    batches = True

    def __init__(self, *, path: Path, device: str, dtype: str | None, remote_code: bool) -> None:
        """Load the model."""
        self._device = device
        self._tokenizer = tokenizer_of(path, remote_code=remote_code)
        kind = "AutoModelForSequenceClassification"
        model = load_weights(kind, path, device=device, dtype=dtype, remote_code=remote_code)
        model.config.pad_token_id = self._tokenizer.pad_token_id
        self._model = model
        self._labels = [str(label) for _, label in sorted(model.config.id2label.items())]
        self.outputs: tuple[Spec, ...] = (
            Spec(name="label", datatype="BYTES", shape=(-1,)),
            Spec(name="score", datatype="FP32", shape=(-1,)),
            Spec(name="scores", datatype="FP32", shape=(-1, len(self._labels))),
        )

    def infer(self, tensors: dict[str, Array], parameters: dict[str, Any]) -> dict[str, Array]:
        """Softmax over the labels, or a sigmoid each where the model has several at once."""
        import torch

        batch = self._tokenizer(
            texts_of(tensors), padding=True, truncation=True, return_tensors="pt"
        ).to(self._device)
        several = self._model.config.problem_type == "multi_label_classification"
        with torch.inference_mode():
            logits = self._model(**batch).logits.float()
            independent = several or logits.shape[-1] == 1
            scores = (logits.sigmoid() if independent else logits.softmax(-1)).cpu().numpy()
        best = scores.argmax(-1)
        return {
            "label": np.array([self._labels[index].encode() for index in best], dtype=np.object_),
            "score": scores.max(-1),
            "scores": scores,
        }


class Pipeline:
    """A text pipeline of transformers: its answers as JSON, one per text."""

    platform = "transformers"
    inputs = TEXT
    outputs: tuple[Spec, ...] = (Spec(name="result", datatype="BYTES", shape=(-1,)),)
    batches = False

    def __init__(
        self, *, path: Path, task: str, device: str, dtype: str | None, remote_code: bool
    ) -> None:
        """Build the pipeline for ``task``."""
        from transformers import pipeline

        model = load_weights(
            PIPELINES[task], path, device=device, dtype=dtype, remote_code=remote_code
        )
        tokenizer = tokenizer_of(path, remote_code=remote_code)
        self._task = task
        self._pipeline = pipeline(task, model=model, tokenizer=tokenizer, device=device)

    def infer(self, tensors: dict[str, Array], parameters: dict[str, Any]) -> dict[str, Array]:
        """``result``: what the pipeline says of each ``text``, as JSON."""
        chosen: dict[str, Any] = {}
        if self._task == "text-generation":
            chosen = {name: value for name, value in parameters.items() if name in GENERATION}
            wanted = chosen.setdefault("max_new_tokens", 64)
            if type(wanted) is not int or not 1 <= wanted <= MAX_NEW_TOKENS:
                raise BadRequest(f"max_new_tokens must be 1 to {MAX_NEW_TOKENS}")
        try:
            answers = [self._pipeline(text, **chosen) for text in texts_of(tensors)]
        except (ValueError, TypeError) as exc:
            raise BadRequest(str(exc)) from exc
        lines = [json.dumps(answer, default=_number).encode() for answer in answers]
        return {"result": np.array([*lines, None], dtype=np.object_)[:-1]}


def texts_of(tensors: dict[str, Array]) -> list[str]:
    """The input ``text``.

    Raises:
        BadRequest: none, or not UTF-8.
    """
    if not tensors["text"].size:
        raise BadRequest("input 'text' is empty")
    try:
        return [item.decode() for item in tensors["text"].ravel()]
    except UnicodeDecodeError as exc:
        raise BadRequest("input 'text' must be UTF-8") from exc


def _number(value: Any) -> Any:
    """NumPy's numbers, which `json` does not know."""
    return value.item() if hasattr(value, "item") else str(value)


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
    """[texts, tokens, width] → [texts, width]; padding does not count."""
    mask = attention.unsqueeze(-1).to(tokens.dtype)
    if mode == "cls_token":
        return tokens[:, 0]
    if mode == "max_tokens":
        return tokens.masked_fill(mask == 0, float("-inf")).amax(1)
    if mode == "lasttoken":
        import torch

        # The last attended place, whichever side is padded.
        places = torch.arange(attention.shape[1], device=attention.device)
        last = (attention * places).argmax(1)
        return tokens[torch.arange(len(tokens), device=tokens.device), last]
    count = mask.sum(1).clamp(min=1)
    return (tokens * mask).sum(1) / (count.sqrt() if mode == "mean_sqrt_len_tokens" else count)


def _dense(folder: Path, device: str) -> tuple[Any, Any, Any]:
    """Weight, bias and activation of a Dense module."""
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
