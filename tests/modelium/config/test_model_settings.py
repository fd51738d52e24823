"""The settings of single models: bounds, JSON values, and which setting wins."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from agents.rules.sizing import default_settings_for
from modelium.config import ModelEntry
from modelium.models import GIB, LoadSettings, RuntimeName
from modelium.models.settings import split
from modelium.policy import Policy, RuntimeRules
from runtimes.loading.settings import complete
from tests.fakes.fleets import profile
from tests.modelium.config.reading import wrong


def entry(**settings: object) -> ModelEntry:
    return ModelEntry.model_validate({"settings": settings})


def test_mappings_become_json_as_engines_take_them() -> None:
    overrides = {"architectures": ["X"], "classifier_from_token": ["no", "yes"]}
    found = entry(hf_overrides=overrides, max_model_len=4096, enable_lora=False).settings
    assert json.loads(str(found["hf_overrides"])) == overrides
    assert (found["max_model_len"], found["enable_lora"]) == (4096, False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"port": 1}, "port cannot be set for a model"),
        ({"trust-remote-code": True}, "trust_remote_code cannot be set for a model"),
        ({"gpu_memory_utilization": 0.9}, "gpu_memory_utilization cannot be set"),
        ({"extra_kv_bytes": 1}, "extra_kv_bytes cannot be set"),
        ({"max_model_len": 0}, "max_model_len: Input should be greater than or equal to 1"),
        ({"kv_cache_bytes": "much"}, "kv_cache_bytes: Input should be a valid integer"),
        ({"chat_template": "x" * 70_000}, "chat_template is longer than 65536 characters"),
    ],
)
def test_what_no_load_can_have_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        entry(**settings)


def test_the_sentence_of_the_refusal_is_shown() -> None:
    assert wrong("models:\n  gpt2: {settings: {port: 1}}\n") == [
        "models.gpt2.settings: port cannot be set for a model: Modelium sets it for each load"
    ]


def policy(**settings: str | int | float | bool) -> Policy:
    rules = RuntimeRules(default_settings={"max_model_len": 2048, "seed": 1})
    return Policy(
        runtimes=dict.fromkeys(RuntimeName, rules), model_settings={"mine": dict(settings)}
    )


def test_a_models_settings_precede_those_of_its_runtime() -> None:
    by = policy(max_model_len=1024, tool_call_parser="hermes", kv_cache_bytes=GIB)
    mine = default_settings_for(profile(1), by, RuntimeName.VLLM, "mine")
    assert (mine.max_model_len, mine.kv_cache_bytes) == (1024, GIB)
    assert mine.extra == {"seed": 1, "tool_call_parser": "hermes"}
    other = default_settings_for(profile(1), by, RuntimeName.VLLM, "other")
    assert (other.max_model_len, other.extra) == (2048, {"seed": 1})


def test_engine_arguments_go_to_engines_alone() -> None:
    by = policy(max_model_len=1024, tool_call_parser="hermes")
    serve = default_settings_for(profile(1), by, RuntimeName.RAY_SERVE, "mine")
    assert (serve.max_model_len, serve.extra) == (1024, {"seed": 1})


@pytest.mark.parametrize("first", ["max_batch_size", "max_num_seqs"])
def test_the_seeds_name_yields_to_the_settings_own_name_everywhere(first: str) -> None:
    both = {"max_batch_size": 8, "max_num_seqs": 4}
    given = {first: both.pop(first), **both}
    assert split(given) == ({"max_num_seqs": 4}, {})
    assert complete(LoadSettings(), given).max_num_seqs == 4
    rules = {RuntimeName.VLLM: RuntimeRules(default_settings=dict(given))}
    sized = default_settings_for(profile(1), Policy(runtimes=rules), RuntimeName.VLLM)
    assert sized.max_num_seqs == 4
