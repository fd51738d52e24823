"""GGUF models: one file or several split parts."""

from __future__ import annotations

from typing import Any

from modelium.analysis.architecture import kv_layout
from modelium.analysis.catalog import EngineCatalog, assess
from modelium.analysis.describe import card_of
from modelium.analysis.readers import gguf_header
from modelium.analysis.readers.folder import Folder, shown
from modelium.errors import DropRejected
from modelium.models import KVLayout, ModelFormat, ModelProfile, Task

_ENCODERS = frozenset(
    {
        *("bert", "modern-bert", "neo-bert", "eurobert", "nomic-bert", "nomic-bert-moe"),
        *("jina-bert-v2", "jina-bert-v3", "gemma-embedding", "t5encoder"),
    }
)
"""Architectures without a KV cache, which embed text."""
_PROJECTOR = "clip"
"""The architecture of a multimodal projector, whatever its file is called."""
_NO_POOLING, _RANK = 0, 4
"""Of llama.cpp's pooling types: what a decoder has, and what a reranker has."""
MAX_SPLITS = 256


def profile_gguf(folder: Folder, engines: EngineCatalog) -> ModelProfile:
    """Return the profile of the folder's GGUF model; raises `DropRejected`."""
    projectors = _projectors(folder)
    names = _model_files(folder, projectors)
    headers = [folder.parse(name, gguf_header.read_gguf) for name in names]
    first = headers[0]
    meta = first.metadata
    seen: set[str] = set()
    for header in headers:
        if seen & header.names:
            raise DropRejected(
                "Two parts contain the same tensor. Drop one model per folder.",
                reason="duplicate-tensor",
            )
        seen |= header.names
    by_type: dict[str, int] = {}
    for header in headers:
        for name, size in header.bytes_by_type.items():
            by_type[name] = by_type.get(name, 0) + size
    architecture = shown(str(meta.get("general.architecture") or "unknown"))
    task = _task(meta, architecture)
    layout = None if architecture in _ENCODERS else _layout(meta, architecture)
    vocabulary = meta.get("tokenizer.ggml.tokens.length")
    license_id, card = card_of(folder)
    stated = meta.get("general.license")
    file_type = meta.get("general.file_type")
    details: dict[str, Any] = {"gguf_version": first.version, "tensors": len(seen)}
    template = meta.get("tokenizer.chat_template")
    if isinstance(template, str):
        details["untrusted"] = {"chat_template": template[: gguf_header.KEPT_TEXT]}
    # Publishers offer one projector in several precisions.
    projector = min(projectors, key=lambda name: folder.sizes[name]) if projectors else None
    files = {"model": names[0]} | ({"projector": projector} if projector else {})
    return ModelProfile(
        format=ModelFormat.GGUF,
        architecture=architecture,
        task=Task.IMAGE_TEXT_TO_TEXT if projector else task,
        parameter_count=sum(h.elements for h in headers),
        weight_bytes=sum(h.bytes for h in headers) + (folder.sizes[projector] if projector else 0),
        weight_bytes_by_dtype=by_type,
        dtype="float16",
        quantization=gguf_header.FILE_TYPES.get(file_type)
        if isinstance(file_type, int)
        else _main(by_type),
        context_length=gguf_header.integer(meta, f"{architecture}.context_length"),
        vocabulary_size=vocabulary or gguf_header.integer(meta, f"{architecture}.vocab_size"),
        layers=gguf_header.integer(meta, f"{architecture}.block_count"),
        hidden_size=gguf_header.integer(meta, f"{architecture}.embedding_length"),
        attention_heads=gguf_header.integer(meta, f"{architecture}.attention.head_count"),
        intermediate_size=gguf_header.integer(meta, f"{architecture}.feed_forward_length"),
        experts=gguf_header.integer(meta, f"{architecture}.expert_count") or None,
        kv=layout,
        kv_bytes_per_token=kv_layout.per_token(layout) * 2 if layout else None,
        files=files,
        runtimes=assess(
            format=ModelFormat.GGUF, task=task, architecture=architecture, engines=engines
        ),
        license=license_id or (shown(stated) if isinstance(stated, str) else None),
        card=card,
        details=details,
    )


def _main(by_type: dict[str, int]) -> str | None:
    return max(by_type, key=lambda name: by_type[name]) if by_type else None


def _task(meta: dict[str, Any], architecture: str) -> Task:
    pooling = gguf_header.integer(meta, f"{architecture}.pooling_type")
    if pooling == _RANK:
        return Task.TEXT_RANKING
    if architecture in _ENCODERS or pooling not in (None, _NO_POOLING):
        return Task.EMBEDDING
    return Task.TEXT_GENERATION


def _projectors(folder: Folder) -> list[str]:
    found = []
    for file in folder.having(".gguf"):
        named = "mmproj" in file.name.lower()
        meta = {} if named else folder.parse(file.name, gguf_header.read_gguf).metadata
        if named or meta.get("general.architecture") == _PROJECTOR:
            found.append(file.name)
    return found


def _model_files(folder: Folder, projectors: list[str]) -> list[str]:
    names = [f.name for f in folder.having(".gguf") if f.name not in projectors]
    if not names:
        raise DropRejected(
            "The folder has only a projector (mmproj). Drop it together with its model.",
            reason="unknown-format",
        )
    if len(names) == 1:
        return names
    stems = {name.rpartition("-of-")[0].rpartition("-")[0] for name in names if "-of-" in name}
    if len(stems) == 1 and all("-of-" in name for name in names) and len(names) <= MAX_SPLITS:
        return names
    raise DropRejected(
        f"The {len(names)} GGUF files are not parts of one model. Drop one model per folder.",
        reason="ambiguous",
    )


def _layout(meta: dict[str, Any], architecture: str) -> KVLayout | None:
    def value(key: str) -> int | None:
        return gguf_header.integer(meta, f"{architecture}.{key}")

    layers, heads, hidden = (
        value("block_count"),
        value("attention.head_count"),
        value("embedding_length"),
    )
    if not layers or not heads or not hidden:
        return None
    dim = value("attention.key_length") or hidden // heads
    rank = value("attention.kv_lora_rank")
    if rank:
        return KVLayout(full_layers=layers, latent_dim=rank + (value("rope.dimension_count") or 0))
    window = value("attention.sliding_window")
    sliding = layers - layers // 6 if window and architecture.startswith("gemma3") else 0
    sliding = layers // 2 if window and architecture in {"gemma2", "gpt-oss"} else sliding
    states = value("ssm.state_size") or 0
    inner = value("ssm.inner_size") or 0
    interval = value("full_attention_interval")
    state_layers = layers - layers // interval if states and interval else 0
    return KVLayout(
        full_layers=layers - sliding - state_layers,
        sliding_layers=sliding,
        sliding_window=window if sliding else None,
        state_layers=state_layers,
        state_elements=state_layers * inner * states,
        kv_heads=value("attention.head_count_kv") or heads,
        key_dim=dim,
        value_dim=value("attention.value_length") or dim,
    )
