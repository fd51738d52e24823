"""Kinds and shortened messages of failed deployments."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from modelium.errors import FailureKind
from runtimes.ray.failure_message import (
    LONGEST,
    described,
    failure_kind,
    shorten,
    start_failure,
)

TRACE = """The deployment failed to start 1 times in a row. Error:
\x1b[36mray::ServeReplica:m:model.initialize_and_get_metadata()\x1b[39m (pid=7, ip=192.0.2.2)
  File "/lib/concurrent/futures/_base.py", line 401, in __get_result
    raise self._exception
           ^^^^^^^^^^^^^^^
RuntimeError: Traceback (most recent call last):
  File "/runtimes/ray/replica/onnx.py", line 55, in __init__
    self._session = onnxruntime.InferenceSession(
                    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
"""


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("onnxruntime.capi.Fail: Load model failed:std::bad_alloc", FailureKind.OUT_OF_MEMORY),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried", FailureKind.OUT_OF_MEMORY),
        ("MemoryError", FailureKind.OUT_OF_MEMORY),
        ("ModuleNotFoundError: No module named 'torch'", FailureKind.ENVIRONMENT),
        ("onnxruntime.capi.InvalidProtobuf: Protobuf parsing failed.", FailureKind.BAD_FILES),
        ("safetensors_rust.SafetensorError: HeaderTooLarge", FailureKind.BAD_FILES),
        ("OSError: no file named model.safetensors found", FailureKind.BAD_FILES),
        ("ValueError: weights are missing in the files: classifier", FailureKind.BAD_FILES),
        (
            "ValueError: the checkpoint has model type `x` but Transformers does not recognize "
            "this architecture",
            FailureKind.UNSUPPORTED,
        ),
        ("ray.exceptions.ActorDiedError: The actor died unexpectedly", FailureKind.KILLED),
        ("KeyError: 'what'", FailureKind.UNKNOWN),
    ],
)
def test_causes_are_told_apart(words: str, kind: FailureKind) -> None:
    assert failure_kind(TRACE + words) == kind


def test_a_trace_becomes_its_exception() -> None:
    assert shorten(TRACE + "pkg.sub.InvalidProtobuf: it is bad") == "InvalidProtobuf: it is bad"


def test_the_lines_of_an_exception_stay_together() -> None:
    message = shorten(TRACE + "OSError: cannot load it.\nMake sure that:\n- it is there")
    assert message == "OSError: cannot load it. Make sure that: - it is there"


def test_other_messages_keep_their_end() -> None:
    assert shorten("waiting for\n\nresources") == "waiting for resources"
    assert shorten("") == ""
    assert len(shorten("x" * 10_000)) == LONGEST


def test_an_error_without_words_is_its_type() -> None:
    assert described(httpx.ReadTimeout("")) == "ReadTimeout"
    assert described(OSError("refused")) == "refused"
    assert described(RuntimeError(TRACE + "pkg.Bad: it is")) == "Bad: it is"


def test_a_failed_start_quotes_the_end_of_its_output(tmp_path: Path) -> None:
    output = tmp_path / "start.log"
    output.write_bytes(b" \n")
    assert start_failure("failed (1)", output) == (
        "ray start failed (1) and printed nothing; it is tried again"
    )
    output.write_bytes(b"no\n" + b"word\n" * 59 + b"\xff\n")
    assert start_failure("hung", output) == f"ray start hung: {'word ' * 59}\ufffd"
