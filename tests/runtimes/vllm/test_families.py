"""Arguments that follow from a model's family, on releases that have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelium.errors import LoadFailed
from modelium.models import ModelProfile, Task
from runtimes.vllm.families import PARSERS, QWEN3_RERANKER, family_arguments
from runtimes.vllm.installation import Installation
from tests.runtimes.requests import profile, request
from tests.runtimes.vllm.test_installation import RELEASES, recipe


def qwen3(task: Task = Task.TEXT_GENERATION) -> ModelProfile:
    return profile(architecture="Qwen3ForCausalLM", task=task)


def argv(release: str, asked: ModelProfile, **settings: object) -> list[str]:
    given = recipe(RELEASES[release])
    command = given.command(
        given.complete(request(Path("/m"), profile=asked, **settings)),  # type: ignore[arg-type]
        host="h", port=1, key="k",
    )  # fmt: skip
    return list(command.argv)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("architecture", PARSERS)
@pytest.mark.parametrize("task", [Task.TEXT_GENERATION, Task.EMBEDDING, Task.TEXT_RANKING])
def test_every_release_has_what_a_family_gets(release: str, architecture: str, task: Task) -> None:
    words = argv(release, profile(architecture=architecture, task=task))
    options = {word.partition("=")[0]: word.partition("=")[2] for word in words if "--" in word}
    assert options.keys() <= RELEASES[release].arguments
    tool, reasoning = options.get("--tool-call-parser"), options.get("--reasoning-parser")
    assert tool is None or tool in RELEASES[release].tool_parsers
    assert reasoning is None or reasoning in RELEASES[release].reasoning_parsers
    assert (tool is None) == ("--enable-auto-tool-choice" not in options)


@pytest.mark.parametrize("architecture", PARSERS)
def test_the_newest_release_knows_every_parser_of_the_table(architecture: str) -> None:
    newest = RELEASES["0.32.0"]
    parsers = PARSERS[architecture]
    assert parsers.tool in newest.tool_parsers
    assert not parsers.reasoning or parsers.reasoning in newest.reasoning_parsers


def test_the_operators_parser_stands() -> None:
    found = family_arguments(qwen3(), RELEASES["0.32.0"], {"tool_call_parser": "xlam"})
    assert found == {}
    assert family_arguments(qwen3(), RELEASES["0.32.0"], {"enable_auto_tool_choice": False}) == {}


def test_a_reranker_made_of_a_generator_gets_vllms_overrides() -> None:
    words = argv("0.32.0", qwen3(Task.TEXT_RANKING))
    assert "--runner=pooling" in words
    (overrides,) = [word for word in words if word.startswith("--hf-overrides=")]
    assert json.loads(overrides.partition("=")[2]) == QWEN3_RERANKER


def test_an_embedding_model_made_of_a_generator_pools() -> None:
    assert "--runner=pooling" in argv("0.11.0", qwen3(Task.EMBEDDING))
    bert = profile(architecture="BertModel", task=Task.EMBEDDING)
    assert family_arguments(bert, RELEASES["0.32.0"], {}) == {}


def test_an_unknown_release_gets_nothing_of_its_own() -> None:
    assert family_arguments(qwen3(Task.TEXT_RANKING), Installation(), {}) == {}


def test_what_the_operator_sets_for_a_model_is_passed_on() -> None:
    settings = {"chat_template": "/t.jinja", "enable_lora": False}
    asked = request(Path("/m"), operator_settings=settings)
    given = recipe(RELEASES["0.32.0"])
    plan = asked.settings.model_copy(update={"extra": dict(settings)})
    words = given.command(
        request(Path("/m"), operator_settings=settings, settings=plan), host="h", port=1, key="k"
    ).argv
    assert "--chat-template=/t.jinja" in words and "--no-enable-lora" in words
    with pytest.raises(LoadFailed, match="not allowed"):
        given.command(request(Path("/m"), settings=plan), host="h", port=1, key="k")
