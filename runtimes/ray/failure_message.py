"""Classifies and shortens the messages of failed deployments and starts."""

from __future__ import annotations

import re
from pathlib import Path

from modelium.errors import FailureKind
from runtimes.loading.failure_kind import Rules, classify

FAILURES: Rules = (
    (
        FailureKind.OUT_OF_MEMORY,
        r"MemoryError|OutOfMemory|bad.?alloc|can't allocate memory|node running low on memory",
    ),
    (
        FailureKind.ENVIRONMENT,
        r"ModuleNotFoundError|ImportError|RuntimeEnvSetupError|Failed to set up runtime env|"
        r"CUDA driver|CUDA provider|CUDA-capable device|requires the .* library",
    ),
    (
        FailureKind.BAD_FILES,
        r"InvalidProtobuf|INVALID_PROTOBUF|INVALID_GRAPH|NO_SUCHFILE|SafetensorError|"
        r"FileNotFoundError|JSONDecodeError|no file named|does not appear to have a file|"
        r"Protobuf parsing failed|IncompleteMetadata|HeaderTooLarge|External data|"
        r"weights are missing|Can't load the? ?(model|tokenizer|configuration)|"
        r"size mismatch|IsADirectoryError",
    ),
    (
        FailureKind.UNSUPPORTED,
        r"unsupported|NOT_IMPLEMENTED|NotImplemented|unrecognized (model|configuration)|"
        r"does not recognize this architecture|is not a registered|trust_remote_code",
    ),
    (
        FailureKind.KILLED,
        r"ActorDiedError|WorkerCrashedError|actor died|worker died|SYSTEM_ERROR",
    ),
)
"""A crash for lack of memory matches several, so memory comes first."""

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
LINES = 6
"""Lines of a message that are kept."""
WORDS = 60
"""Words of the output of `ray start` that are kept."""
LONGEST = 1500
"""Characters of a shortened message."""


def failure_kind(message: str) -> FailureKind:
    """Return the kind of the failure that a traceback reports."""
    return classify([message], None, FAILURES)


def start_failure(what: str, output: Path) -> str:
    """Return ``what`` became of `ray start`, with the end of its ``output``.

    It is quoted, not named: the next attempt writes the file afresh.
    """
    words = output.read_text(errors="replace").split()[-WORDS:]
    if not words:
        return f"ray start {what} and printed nothing; it is tried again"
    return f"ray start {what}: {' '.join(words)}"


def described(error: BaseException) -> str:
    """Return the text of ``error``, or its type where it has none, as many timeouts."""
    return shorten(str(error)) or type(error).__name__


def shorten(message: str) -> str:
    """Return the exception of a traceback (class and text), or the end of any other message."""
    lines = [line.rstrip() for line in COLOUR.sub("", message).splitlines() if line.strip()]
    frames = [index for index, line in enumerate(lines) if line.startswith('  File "')]
    if frames:
        after = [line for line in lines[frames[-1] + 1 :] if not line.startswith(" ")][:LINES]
        if after:
            name, separator, text = after[0].partition(": ")
            lines = [name.rpartition(".")[2] + separator + text, *after[1:]]
    return " ".join(line.strip() for line in lines[-LINES:])[:LONGEST]
