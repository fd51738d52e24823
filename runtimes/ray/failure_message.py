"""Why Ray Serve could not load a model, read off its messages (no I/O here)."""

from __future__ import annotations

import re

from modelium.errors import FailureKind

PATTERNS: tuple[tuple[FailureKind, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        (
            FailureKind.OUT_OF_MEMORY,
            r"MemoryError|OutOfMemory|out of memory|bad.?alloc|failed to allocate|"
            r"cannot allocate memory|can't allocate memory|node running low on memory",
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
)
"""In order of precedence: a crash for lack of memory says both."""

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
LINES = 6
"""Last lines of a trace that are worth a person's time."""
LONGEST = 1500


def classify(message: str) -> FailureKind:
    """The kind of failure that a trace tells of."""
    for kind, pattern in PATTERNS:
        if pattern.search(message):
            return kind
    return FailureKind.UNKNOWN


def shorten(message: str) -> str:
    """The exception of a trace (class and text), or the last lines of any other message."""
    lines = [line.rstrip() for line in COLOUR.sub("", message).splitlines() if line.strip()]
    frames = [index for index, line in enumerate(lines) if line.startswith('  File "')]
    if frames:
        after = [line for line in lines[frames[-1] + 1 :] if not line.startswith(" ")][:LINES]
        if after:
            name, separator, text = after[0].partition(": ")
            lines = [name.rpartition(".")[2] + separator + text, *after[1:]]
    return " ".join(line.strip() for line in lines[-LINES:])[:LONGEST]
