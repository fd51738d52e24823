"""A weight matrix, and properties of each family's matrices that configurations do not state."""

from __future__ import annotations

from dataclasses import dataclass

from modelium.analysis.architecture.hf_config import Text


@dataclass(frozen=True, kw_only=True, slots=True)
class Module:
    """A matrix (``rows`` out × ``columns`` in) that occurs ``count`` times, or a vector."""

    name: str
    rows: int
    columns: int = 1
    count: int = 1
    bias: int = 0
    """Elements of bias for each matrix."""
    split: bool = True
    """Whether tensor parallelism divides it; otherwise every device has a full copy."""
    linear: bool = True
    """Whether it is a linear layer, which quantizers may convert, and not an embedding, norm or
    convolution."""
    expert: bool = False

    @property
    def elements(self) -> int:
        """Number of weights, without biases."""
        return self.rows * self.columns * self.count

    @property
    def biases(self) -> int:
        """Number of elements of all biases."""
        return self.bias * self.count


PLAIN_MLP = frozenset(
    [
        "gpt2",
        "opt",
        "phi",
        "gpt_bigcode",
        "starcoder2",
        "falcon",
        "bloom",
        "mpt",
        "gptj",
        "gpt_neox",
        "codegen",
        "bert",
        "roberta",
        "xlm-roberta",
        "distilbert",
        "electra",
        "albert",
        "deberta",
        "deberta-v2",
        "mpnet",
        "persimmon",
        "nemotron",
        "nemotron_h",
        "whisper",
        "bart",
        "mbart",
        "marian",
        "pegasus",
        "m2m_100",
        "nllb",
        "arcee",
        "apertus",
        "camembert",
        "vit",
        "gpt_neo",
        "esm",
    ]
)
"""Families with two feed-forward matrices instead of the three of a gated feed-forward."""
LEARNED_POSITIONS = frozenset(
    [
        "gpt2",
        "gpt_bigcode",
        "gpt_neo",
        "opt",
        "bert",
        "roberta",
        "xlm-roberta",
        "camembert",
        "distilbert",
        "electra",
        "albert",
        "mpnet",
        "bart",
        "mbart",
        "whisper",
    ]
)
ALL_BIASED = frozenset(
    [
        "gpt2",
        "opt",
        "phi",
        "gpt_bigcode",
        "starcoder2",
        "bloom",
        "gpt_neox",
        "codegen",
        "bert",
        "roberta",
        "xlm-roberta",
        "mpnet",
        "distilbert",
        "electra",
        "albert",
        "bart",
        "mbart",
        "marian",
        "whisper",
        "camembert",
        "persimmon",
        "vit",
        "gpt_neo",
    ]
)
QKV_BIASED = frozenset(
    [
        "qwen",
        "qwen2",
        "qwen2_moe",
        "qwen2_vl",
        "qwen2_vl_text",
        "qwen2_5_vl",
        "qwen2_5_vl_text",
        "chatglm",
        "gpt_oss",
    ]
)
FOUR_NORMS = frozenset(
    ["gemma2", "gemma3", "gemma3_text", "gemma3n_text", "gemma4_text", "gemma4", "glm4"]
)
ENCODERS = frozenset(
    [
        "bert",
        "roberta",
        "xlm-roberta",
        "distilbert",
        "electra",
        "albert",
        "mpnet",
        "deberta",
        "deberta-v2",
        "modernbert",
        "camembert",
        "nomic_bert",
        "new",
        "gte",
        "esm",
    ]
)


def vector(name: str, elements: int) -> Module:
    """Return a vector that is replicated on every device."""
    return Module(name=name, rows=elements, split=False, linear=False)


def biased(text: Text, *names: str) -> bool:
    """Return whether the family or one of the named flags adds biases."""
    return text.family in ALL_BIASED or any(text.raw.get(name) is True for name in names)
