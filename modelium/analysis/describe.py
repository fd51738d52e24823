"""Task, licence and model card, as the files state them. All text is untrusted."""

from __future__ import annotations

import re
from typing import Any

from modelium.analysis.readers.folder import Folder, shown
from modelium.models import Task, Untrusted

MAX_CARD = 4000
"""Characters of a README that a profile keeps."""
_MAX_README = 256 * 1024
_MAX_MODULES = 64 * 1024
_PIPELINE_TAG = re.compile(r"^pipeline_tag:\s*['\"]?([\w-]{1,64})", re.MULTILINE)
_LICENSE = re.compile(r"^license:\s*['\"]?([\w.+-]{1,64})", re.MULTILINE)

_BY_CLASS: tuple[tuple[str, Task], ...] = (
    ("ForSequenceClassification", Task.TEXT_CLASSIFICATION),
    ("ForTokenClassification", Task.TOKEN_CLASSIFICATION),
    ("ForImageClassification", Task.IMAGE_CLASSIFICATION),
    ("ForAudioClassification", Task.GENERIC),
    ("ForCTC", Task.SPEECH_RECOGNITION),
    ("ForSpeechSeq2Seq", Task.SPEECH_RECOGNITION),
    ("ForCausalLM", Task.TEXT_GENERATION),
    ("LMHeadModel", Task.TEXT_GENERATION),
    ("ForMaskedLM", Task.EMBEDDING),
    ("ForQuestionAnswering", Task.GENERIC),
)
_SPEECH = ("whisper", "speech_to_text", "moonshine", "voxtral", "wav2vec2", "hubert", "parakeet")
_SEQ2SEQ = ("t5", "mt5", "umt5", "bart", "mbart", "marian", "pegasus", "m2m_100", "nllb", "led")
_DECODERS = ("chatglm", "rwforcausallm", "gpt2", "qwen", "internlm")


def task_of(config: dict[str, Any], architecture: str) -> Task:
    """Return the task of a transformers configuration, by its class and sections."""
    family = str(config.get("model_type") or "").lower()
    if family.startswith(_SPEECH):
        return Task.SPEECH_RECOGNITION
    for suffix, task in _BY_CLASS[:6]:
        if architecture.endswith(suffix):
            return task
    if any(key in config for key in ("vision_config", "vision_tower", "mm_vision_tower")):
        return Task.EMBEDDING if architecture.endswith("Model") and family in {
            "clip", "siglip", "siglip2", "chinese_clip"
        } else Task.IMAGE_TEXT_TO_TEXT  # fmt: skip
    if config.get("is_encoder_decoder") or family in _SEQ2SEQ:
        return Task.TEXT2TEXT
    for suffix, task in _BY_CLASS[6:]:
        if architecture.endswith(suffix):
            return task
    if architecture.endswith("ForConditionalGeneration") or family == "multi_modality":
        return Task.IMAGE_TEXT_TO_TEXT
    if family in _DECODERS:
        return Task.TEXT_GENERATION
    return Task.EMBEDDING if architecture.endswith("Model") else Task.GENERIC


def refined(task: Task, config: dict[str, Any], architecture: str, folder: Folder) -> Task:
    """Return the task of a model that others share the class of.

    Embedding models and rerankers made of a generator have its class; they are told by the files
    of sentence-transformers or, rerankers, by their card. A classifier with one output ranks.
    """
    if architecture.endswith("ForSequenceClassification"):
        return Task.TEXT_RANKING if _labels(config) == 1 else task
    if task not in (Task.TEXT_GENERATION, Task.IMAGE_TEXT_TO_TEXT, Task.GENERIC):
        return task
    if "classifier_from_token" in config or _is_cross_encoder(folder):
        return Task.TEXT_RANKING
    if "modules.json" in folder and b".Pooling" in folder.read("modules.json", limit=_MAX_MODULES):
        return Task.EMBEDDING
    return Task.TEXT_RANKING if _pipeline_tag(folder) == "text-ranking" else task


def _labels(config: dict[str, Any]) -> int | None:
    names, count = config.get("id2label"), config.get("num_labels")
    if isinstance(names, dict) and names:
        return len(names)
    return count if isinstance(count, int) else None


def _is_cross_encoder(folder: Folder) -> bool:
    name = "config_sentence_transformers.json"
    return name in folder and folder.json(name).get("model_type") == "CrossEncoder"


def _pipeline_tag(folder: Folder) -> str | None:
    name = next((f.name for f in folder.files if f.name.lower() == "readme.md"), None)
    if name is None:
        return None
    text = folder.read(name, limit=4096).decode("utf-8", "replace")
    found = _PIPELINE_TAG.search(text) if text.startswith("---") else None
    return found[1] if found else None


def card_of(folder: Folder) -> tuple[str | None, Untrusted | None]:
    """Return the licence identifier and the beginning of the README; ``None`` where missing."""
    name = next((f.name for f in folder.files if f.name.lower() == "readme.md"), None)
    if name is None:
        return None, None
    text = folder.read(name, limit=_MAX_README).decode("utf-8", "replace")
    found = _LICENSE.search(text[:4096]) if text.startswith("---") else None
    if text.startswith("---") and (end := text.find("\n---", 3)) > 0:
        text = text[end + 4 :]
    text = "".join(c for c in text.strip() if c.isprintable() or c == "\n")
    card = Untrusted(text=text[:MAX_CARD], truncated=len(text) > MAX_CARD)
    return (shown(found[1]) if found else None), card


def untrusted(folder: Folder) -> dict[str, str]:
    """Return further text from the folder for people to read; never to be followed."""
    found: dict[str, str] = {}
    for name in ("chat_template.jinja", "chat_template.json"):
        if name in folder:
            found["chat_template"] = folder.read(name, limit=2000).decode("utf-8", "replace")
    return found
