from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelium.analysis import analyze
from modelium.models import ModelFormat, RuntimeName, Task
from tests.modelium.analysis.files import (
    GGUF_METADATA,
    gguf_folder,
    reason_of,
    supported,
    write_gguf,
)


def test_a_gguf_file_tells_its_metadata_and_size(tmp_path: Path) -> None:
    profile = analyze(gguf_folder(tmp_path))
    assert profile.format is ModelFormat.GGUF
    assert (profile.architecture, profile.quantization) == ("llama", "Q4_K_M")
    assert profile.weight_bytes == 256 * 144
    assert profile.parameter_count == 256 * 256
    assert (profile.context_length, profile.vocabulary_size, profile.layers) == (4096, 3, 2)
    assert profile.kv_bytes_per_token == 2 * 2 * 2 * 32 * 2
    assert profile.license == "apache-2.0"
    assert profile.details["untrusted"] == {"chat_template": "{{ messages }}"}
    assert supported(profile) == {RuntimeName.LLAMA_CPP}


def test_a_split_gguf_is_one_model(tmp_path: Path) -> None:
    for part in (1, 2):
        write_gguf(
            tmp_path / f"m-{part:05}-of-00002.gguf",
            metadata=GGUF_METADATA,
            tensors=[(f"t{part}", (32,), 0, 0)],
            data=128,
        )
    profile = analyze(tmp_path)
    assert profile.weight_bytes == 256
    assert profile.files["model"] == "m-00001-of-00002.gguf"


def test_two_different_ggufs_are_ambiguous(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_gguf(tmp_path / f"{name}.gguf", metadata=GGUF_METADATA)
    assert reason_of(tmp_path) == "ambiguous"


@pytest.mark.parametrize(
    ("tensors", "data", "reason"),
    [
        ([("a", (32,), 0, 1 << 40)], 128, "truncated"),
        ([("a", (32,), 0, 0), ("a", (32,), 0, 128)], 256, "duplicate-tensor"),
        ([("a", (32,), 0, 0), ("b", (32,), 0, 64)], 256, "bad-gguf"),
        ([("a", (32,), 99, 0)], 128, "bad-gguf"),
        ([("a", (31,), 2, 0)], 128, "bad-gguf"),
        ([("a", (2**60, 2**60), 0, 0)], 128, "bad-gguf"),
        ([("a", (1,) * 9, 0, 0)], 128, "absurd-counts"),
    ],
)
def test_gguf_tensors_that_cannot_be_are_refused(
    tmp_path: Path, tensors: list[Any], data: int, reason: str
) -> None:
    write_gguf(tmp_path / "m.gguf", metadata=GGUF_METADATA, tensors=tensors, data=data)
    assert reason_of(tmp_path) == reason


@pytest.mark.parametrize("counts", [(2**60, 1), (1, 2**60), (250_000, 0)])
def test_gguf_counts_that_cannot_be_are_refused(tmp_path: Path, counts: tuple[int, int]) -> None:
    write_gguf(tmp_path / "m.gguf", metadata={}, counts=counts)
    assert reason_of(tmp_path) == "absurd-counts"


def test_a_gguf_of_another_version_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", metadata={}, version=1)
    assert reason_of(tmp_path) == "bad-gguf"


@pytest.mark.parametrize(
    ("architecture", "pooling", "task"),
    [
        ("bert", None, Task.EMBEDDING),
        ("qwen3", 3, Task.EMBEDDING),
        ("qwen3", 4, Task.TEXT_RANKING),
        ("bert", 4, Task.TEXT_RANKING),
        ("qwen3", 0, Task.TEXT_GENERATION),
        ("qwen3", None, Task.TEXT_GENERATION),
    ],
)
def test_the_task_is_told_by_architecture_and_pooling(
    tmp_path: Path, architecture: str, pooling: int | None, task: Task
) -> None:
    metadata = GGUF_METADATA | {"general.architecture": architecture}
    if pooling is not None:
        metadata[f"{architecture}.pooling_type"] = pooling
    write_gguf(tmp_path / "m.gguf", metadata=metadata)
    assert analyze(tmp_path).task is task


def test_a_projector_is_known_by_name_or_architecture_and_counted_once(tmp_path: Path) -> None:
    gguf_folder(tmp_path)
    alone = analyze(tmp_path).weight_bytes
    clip = {"general.architecture": "clip"}
    small = write_gguf(tmp_path / "vision-q8.gguf", metadata=clip)
    write_gguf(tmp_path / "mmproj-f32.gguf", metadata=clip, tensors=[("v", (32,), 0, 0)], data=128)
    profile = analyze(tmp_path)
    assert profile.task is Task.IMAGE_TEXT_TO_TEXT
    assert profile.files == {"model": "model.gguf", "projector": "vision-q8.gguf"}
    assert profile.weight_bytes == alone + small.stat().st_size


@pytest.mark.parametrize("architecture", ["flux", "llada", "wavtokenizer-dec"])
def test_what_the_server_cannot_serve_is_said(tmp_path: Path, architecture: str) -> None:
    write_gguf(tmp_path / "m.gguf", metadata={"general.architecture": architecture})
    profile = analyze(tmp_path)
    assert supported(profile) == set()
    (reason,) = (s.reason for s in profile.runtimes if s.runtime is RuntimeName.LLAMA_CPP)
    assert f"does not serve {architecture}" in reason
