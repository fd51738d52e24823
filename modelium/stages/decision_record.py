"""The inputs of a decision, packed so that it can be made again (no I/O here)."""

from __future__ import annotations

import base64
import zlib
from typing import Any

from modelium.errors import InputError
from modelium.models import Decision, Fleet, Frozen, Trigger
from modelium.policy import Policy
from modelium.ports import Question

LARGEST = 1024 * 1024
"""Bytes; a larger packed snapshot is not stored. Enough for about ten thousand models."""

UNPACKED = 256 * 1024 * 1024
"""Bytes; bound on the unpacked size."""

SECRETS: Any = {
    "models": {"__all__": {"deployment": {"handle": True, "upstream": {"api_key": True}}}},
}
"""Only the gateway and the drivers need them."""


class _Snapshot(Frozen):
    trigger: Trigger
    model: str | None
    now: float
    fleet: Fleet
    policy: Policy


def pack(question: Question, fleet: Fleet, policy: Policy) -> str:
    """Return all three as text, without secrets; empty where that is larger than `LARGEST`."""
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
    """Return the inputs of ``decision``.

    Raises:
        InputError: none were stored: no LLM took part, or the snapshot was too large.
    """
    packed = decision.trace.get("snapshot")
    if not packed:
        raise InputError(
            f"decision {decision.id} has no stored snapshot; only decisions with an LLM have one: "
            "`modelium brain ls` lists them"
        )
    document = zlib.decompressobj().decompress(base64.b64decode(packed), UNPACKED)
    found = _Snapshot.model_validate_json(document)
    question = Question(trigger=found.trigger, model=found.model, now=found.now)
    return question, found.fleet, found.policy
