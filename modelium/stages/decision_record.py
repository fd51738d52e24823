"""What a decision was asked and knew, packed so that it can be asked again (no I/O here)."""

from __future__ import annotations

import base64
import zlib
from typing import Any

from modelium.errors import InputError
from modelium.models import Decision, Fleet, Frozen, Trigger
from modelium.policy import Policy
from modelium.ports import Question

LARGEST = 1024 * 1024
"""Bytes of a packed snapshot that are still kept: some ten thousand models."""

UNPACKED = 256 * 1024 * 1024
"""Bound on what a kept snapshot unpacks to."""

SECRETS: Any = {
    "models": {"__all__": {"deployment": {"handle": True, "upstream": {"api_key": True}}}},
}
"""Nobody's business but the gateway's and the drivers'."""


class _Snapshot(Frozen):
    trigger: Trigger
    model: str | None
    now: float
    fleet: Fleet
    policy: Policy


def pack(question: Question, fleet: Fleet, policy: Policy) -> str:
    """Return all three as text, without secrets; empty where that would be too large."""
    whole = _Snapshot(
        trigger=question.trigger,
        model=question.model,
        now=question.now,
        fleet=fleet,
        policy=policy,
    )
    document = whole.model_dump_json(exclude={"fleet": SECRETS})
    packed = base64.b64encode(zlib.compress(document.encode())).decode("ascii")
    return packed if len(packed) <= LARGEST else ""


def unpack(decision: Decision) -> tuple[Question, Fleet, Policy]:
    """Return what ``decision`` was made on.

    Raises:
        InputError: nothing was kept: no LLM was asked, or its snapshot was too large.
    """
    packed = decision.trace.get("snapshot")
    if not packed:
        raise InputError(
            f"decision {decision.id} keeps no snapshot; only those that an LLM was asked for do: "
            "`modelium brain ls`"
        )
    document = zlib.decompressobj().decompress(base64.b64decode(packed), UNPACKED)
    found = _Snapshot.model_validate_json(document)
    question = Question(trigger=found.trigger, model=found.model, now=found.now)
    return question, found.fleet, found.policy
