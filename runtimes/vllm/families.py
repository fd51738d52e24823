"""Engine arguments that follow from what a model is: parsers, pooling, overrides (no I/O here)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from modelium.models import ModelProfile, Task
from modelium.models.settings import Value
from runtimes.vllm.installation import Installation


@dataclass(frozen=True, kw_only=True, slots=True)
class Parsers:
    """Names of vLLM's parsers for one family; empty: none is certain."""

    tool: str = ""
    reasoning: str = ""


PARSERS: Mapping[str, Parsers] = {
    "Qwen2ForCausalLM": Parsers(tool="hermes"),
    "Qwen3ForCausalLM": Parsers(tool="hermes"),
    "Qwen3MoeForCausalLM": Parsers(tool="hermes"),
    "Qwen3NextForCausalLM": Parsers(tool="hermes"),
    "Qwen3_5ForConditionalGeneration": Parsers(tool="qwen3_coder", reasoning="qwen3"),
    "Qwen3_5MoeForConditionalGeneration": Parsers(tool="qwen3_coder", reasoning="qwen3"),
    "GptOssForCausalLM": Parsers(tool="openai", reasoning="openai_gptoss"),
    "Glm4MoeForCausalLM": Parsers(tool="glm45", reasoning="glm45"),
    "MiniMaxM2ForCausalLM": Parsers(tool="minimax_m2", reasoning="minimax_m2"),
    "Llama4ForConditionalGeneration": Parsers(tool="llama4_pythonic"),
}
"""By architecture, from vLLM's documentation of tool calling; where models of one class differ, as
those of `LlamaForCausalLM` do, there is no entry."""
TOOL_CALLING = frozenset({"tool_call_parser", "enable_auto_tool_choice"})
GENERATIVE = frozenset({Task.TEXT_GENERATION, Task.IMAGE_TEXT_TO_TEXT})
GENERATOR_CLASSES = ("ForCausalLM", "ForConditionalGeneration")
QWEN3_RERANKER = {
    "architectures": ["Qwen3ForSequenceClassification"],
    "classifier_from_token": ["no", "yes"],
    "is_original_qwen3_reranker": True,
}
"""What vLLM's documentation has for these models, whose files are those of a generator."""


def family_arguments(
    profile: ModelProfile, installation: Installation, given: Mapping[str, Value]
) -> dict[str, Value]:
    """Return the arguments of ``vllm serve`` for a model; only those that the release has.

    ``given``: what the operator sets. Where that is about tool calling, nothing is added to it.
    """
    found: dict[str, Value] = {}
    known = PARSERS.get(profile.architecture)
    if profile.task in GENERATIVE and known:
        if known.tool in installation.tool_parsers and not given.keys() & TOOL_CALLING:
            found |= {"enable_auto_tool_choice": True, "tool_call_parser": known.tool}
        if known.reasoning in installation.reasoning_parsers:
            found["reasoning_parser"] = known.reasoning
    made_of_a_generator = profile.architecture.endswith(GENERATOR_CLASSES)
    if profile.task in (Task.EMBEDDING, Task.TEXT_RANKING) and made_of_a_generator:
        found["runner"] = "pooling"
        if profile.task is Task.TEXT_RANKING and profile.architecture == "Qwen3ForCausalLM":
            found["hf_overrides"] = json.dumps(QWEN3_RERANKER)
    if not installation.arguments:
        return {}
    return {
        name: value
        for name, value in found.items()
        if installation.accepts("--" + name.replace("_", "-"))
    }
