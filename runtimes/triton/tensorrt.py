"""Why TensorRT refuses a plan, in one sentence (no I/O here).

Triton answers only that it is "unable to create TensorRT engine"; the reason is in its log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

VERSION = re.compile(
    r"not compatible with this version of TensorRT(?:, expecting library version (\S+) got "
    r"([^\s,]+))?"
)
COMPUTE = re.compile(r"expecting compute (\d+\.\d+) got (?:compute )?(\d+\.\d+)")
TAG = re.compile(r"(?:Version|Magic) tag does not match")
REFUSED = re.compile(
    r"unable to (?:create TensorRT engine|load plan file)|Serialization Error|plan file",
    re.IGNORECASE,
)
REBUILD = "build the plan again"


def refusal(message: str, log: Iterable[str]) -> str:
    """Return what is wrong with the plan, and what to do; empty if it is something else.

    Args:
        message: Triton's answer to the load.
        log: the last lines of its log, oldest first; empty if the server is not ours.
    """
    if not REFUSED.search(message):
        return ""
    for line in (message, *reversed(list(log))):
        if found := COMPUTE.search(line):
            return (
                f"the plan was built on a GPU of compute capability {found[2]}, and the one here "
                f"has {found[1]}: {REBUILD} on a GPU of the same kind"
            )
        if found := VERSION.search(line):
            built = f" {found[2]}" if found[2] else ""
            has = f" {found[1]}" if found[1] else " another version"
            return (
                f"the plan was built by TensorRT{built}, and Triton has{has}: {REBUILD} with "
                "the version of this Triton"
            )
        if TAG.search(line):
            return (
                "the plan was built by another version of TensorRT, or is no plan: "
                f"{REBUILD} with the version of this Triton"
            )
    return ""
