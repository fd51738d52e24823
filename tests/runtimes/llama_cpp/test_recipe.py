"""The command lines of llama.cpp servers, and what is read from their logs and metrics."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelium.config import LlamaCpp as LlamaCppSection
from modelium.errors import FailureKind, LoadFailed
from modelium.models import GIB, Device, LoadSettings, ModelFormat, Task
from runtimes.llama_cpp.recipe import LlamaCppRecipe
from runtimes.process.supervisor import Command
from tests.runtimes.requests import CPU, profile, request

GGUF = profile(ModelFormat.GGUF, files={"model": "q4.gguf"}, context_length=32768)


GPU = Device(node="n", uuid="GPU-a", kind="gpu", total_bytes=80 * GIB, free_bytes=80 * GIB)


def engine(**section: object) -> LlamaCppRecipe:
    config = LlamaCppSection.model_validate(section)
    return LlamaCppRecipe(config=config, executable="/opt/llama-server")


def command(
    made: LlamaCppRecipe, settings: LoadSettings | None = None, device: Device = CPU
) -> Command:
    asked = request(Path("/models/m"), profile=GGUF, settings=settings, devices=(device,))
    return made.command(made.complete(asked), host="127.0.0.1", port=1, key="secret")


def test_the_context_has_a_default() -> None:
    words = " ".join(command(engine()).argv)
    assert "--model /models/m/q4.gguf --alias m" in words
    assert "--ctx-size 4096 --parallel 1 --n-gpu-layers 0" in words
    assert "secret" not in words


def test_the_context_holds_for_each_of_the_sequences() -> None:
    words = " ".join(command(engine(), LoadSettings(max_model_len=2048, max_num_seqs=4)).argv)
    assert "--ctx-size 8192 --parallel 4" in words


def test_all_layers_go_to_the_gpu_that_was_decided_and_to_no_other() -> None:
    made = command(engine(), device=GPU)
    assert "--n-gpu-layers 999" in " ".join(made.argv)
    assert made.environment["CUDA_VISIBLE_DEVICES"] == "GPU-a"
    assert command(engine()).environment["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("name", ["model-url", "rpc", "threads"])
def test_arguments_that_are_not_allowed_are_refused(name: str) -> None:
    made = engine(allowed_extra=["rpc", "model_url"])
    with pytest.raises(LoadFailed, match="not allowed") as failure:
        command(made, LoadSettings(extra={name: "x"}))
    assert failure.value.kind == FailureKind.BAD_SETTINGS


def test_allowed_arguments_are_passed_on() -> None:
    made = engine(allowed_extra=["threads"], default_settings={"mlock": True})
    words = command(made, LoadSettings(extra={"threads": 2})).argv
    assert "--threads=2" in words
    assert "--mlock" in words


def test_less_memory_means_fewer_sequences_and_then_a_shorter_context() -> None:
    made = engine()
    asked = request(Path("/m"), settings=LoadSettings(max_model_len=1500, max_num_seqs=2))
    fewer = made.smaller(asked, [])
    assert fewer and fewer.settings.max_num_seqs == 1
    shorter = made.smaller(fewer, [])
    assert shorter and shorter.settings.max_model_len == 1024
    assert made.smaller(shorter, []) is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("llama_model_load: error loading model: tensor 'x' is not within", FailureKind.BAD_FILES),
        ("gguf_init_from_file: invalid magic characters", FailureKind.BAD_FILES),
        ("error: unknown model architecture: 'x'", FailureKind.UNSUPPORTED),
        ("ggml_backend_cuda_alloc_buffer: failed to allocate", FailureKind.OUT_OF_MEMORY),
        ("couldn't bind HTTP server socket, hostname: 127.0.0.1", FailureKind.PORT),
        ("error: invalid argument: --x", FailureKind.BAD_SETTINGS),
    ],
)
def test_its_failures_have_kinds(text: str, kind: FailureKind) -> None:
    assert engine().failure([text, "main: exiting due to model loading error"], 1) == kind


def test_phases_are_read_from_its_log() -> None:
    made = engine()
    assert made.phase("load_tensors: loading model tensors") == ("loading weights", None)
    assert made.phase("llama_kv_cache: size = 12 MiB") == ("allocating the KV cache", None)
    assert made.phase("build: 1234") is None


def test_its_counters_are_tokens() -> None:
    stats = engine().stats(
        "# HELP llamacpp:prompt_tokens_total n\nllamacpp:prompt_tokens_total 12\n"
        "llamacpp:tokens_predicted_total 34\nllamacpp:requests_processing 1\n"
        "llamacpp:prompt_seconds_total 0.5\nllamacpp:tokens_predicted_seconds_total 1.5\nbroken\n"
    )
    assert (stats.prompt_tokens, stats.generated_tokens, stats.running) == (12, 34, 1)
    assert stats.latency_sum_s == 2.0


@pytest.mark.parametrize(
    ("task", "option"),
    [(Task.EMBEDDING, "--embeddings"), (Task.TEXT_RANKING, "--reranking")],
)
def test_the_server_is_told_what_the_model_is_for(task: Task, option: str) -> None:
    made = engine()
    model = GGUF.model_copy(update={"task": task, "context_length": 2048})
    asked = made.complete(request(Path("/models/m"), profile=model))
    words = " ".join(made.command(asked, host="127.0.0.1", port=1, key="k").argv)
    assert f"{option} --batch-size 2048 --ubatch-size 2048" in words
    assert "--embeddings" not in " ".join(command(made).argv)


def test_a_projector_is_passed_on() -> None:
    made = engine()
    files = {"model": "q4.gguf", "projector": "mmproj-f16.gguf"}
    model = GGUF.model_copy(update={"files": files, "task": Task.IMAGE_TEXT_TO_TEXT})
    asked = made.complete(request(Path("/models/m"), profile=model))
    words = " ".join(made.command(asked, host="127.0.0.1", port=1, key="k").argv)
    assert "--mmproj /models/m/mmproj-f16.gguf" in words
