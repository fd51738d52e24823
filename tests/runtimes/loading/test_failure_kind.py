from __future__ import annotations

import pytest

from modelium.errors import FailureKind
from runtimes.loading.failure_kind import classify

RULES = (
    (FailureKind.BAD_SETTINGS, r"^unknown flag"),
    (FailureKind.STUCK, r"unknown"),
)


@pytest.mark.parametrize(
    ("lines", "code", "kind"),
    [
        (["OSError: [Errno 98] Address already in use"], 1, FailureKind.PORT),
        (["errno 98"], 1, FailureKind.PORT),
        (["errno 981"], 1, FailureKind.UNKNOWN),
        (["EADDRINUSE"], 1, FailureKind.PORT),
        (["couldn't bind to port"], 1, FailureKind.PORT),
        (["CUDA Out Of Memory"], 1, FailureKind.OUT_OF_MEMORY),
        (["torch.OutOfMemoryError"], -9, FailureKind.OUT_OF_MEMORY),
        (["MemoryError"], 1, FailureKind.OUT_OF_MEMORY),
        (["NoMemoryErrorHere"], 1, FailureKind.UNKNOWN),
        (["fork: Cannot allocate memory"], 1, FailureKind.OUT_OF_MEMORY),
        (["std::bad_alloc"], 1, FailureKind.OUT_OF_MEMORY),
        (["failed to allocate buffer"], 1, FailureKind.OUT_OF_MEMORY),
        (["out of memory", "address already in use"], 1, FailureKind.PORT),
        (["unknown flag", "out of memory"], 1, FailureKind.OUT_OF_MEMORY),
        (["Unknown flag --x"], 1, FailureKind.BAD_SETTINGS),
        (["an unknown flag --x"], 1, FailureKind.STUCK),
        (["all is well"], -9, FailureKind.KILLED),
        ([], 137, FailureKind.KILLED),
        ([], 9, FailureKind.UNKNOWN),
        ([], 0, FailureKind.UNKNOWN),
        ([], None, FailureKind.UNKNOWN),
    ],
)
def test_a_failure_is_the_first_that_its_output_names_and_else_its_status(
    lines: list[str], code: int | None, kind: FailureKind
) -> None:
    assert classify(lines, code, RULES) == kind
