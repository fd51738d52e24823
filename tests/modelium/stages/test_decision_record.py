"""What a decision was made on is packed so that it can be asked again, without secrets."""

from __future__ import annotations

import base64
import zlib

import pytest

from modelium.errors import InputError
from modelium.models import Decision, Deployment, Plan, RuntimeName, Trigger, Upstream
from modelium.ports import Question
from modelium.stages import decision_record
from modelium.stages.decision_record import pack, unpack
from tests.fakes import fleets

QUESTION = Question(trigger=Trigger.REVIEW, model="m", now=12.5)


def decision(snapshot: str) -> Decision:
    plan = Plan(author="llm", trigger=Trigger.REVIEW)
    return Decision(id="d1", at=0.0, plan=plan, snapshot_digest="", trace={"snapshot": snapshot})


def test_question_fleet_and_policy_come_back_as_they_were() -> None:
    fleet, policy = fleets.fleet(fleets.loaded("m", "n/g0")), fleets.policy()
    found = unpack(decision(pack(QUESTION, fleet, policy)))
    assert found == (QUESTION, fleet, policy)


def test_keys_and_drivers_notes_are_left_out() -> None:
    model = fleets.loaded("m", "n/g0")
    assert isinstance(model.deployment, Deployment)
    upstream = Upstream(
        host="h", port=1, served_name="m", apis=frozenset({"openai"}), api_key="sk-secret"
    )
    deployment = model.deployment.model_copy(
        update={"upstream": upstream, "handle": {"token": "sk-handle"}}
    )
    fleet = fleets.fleet(model.model_copy(update={"deployment": deployment}))
    packed = pack(QUESTION, fleet, fleets.policy())
    text = zlib.decompress(base64.b64decode(packed)).decode()
    assert "sk-" not in text
    _question, found, _policy = unpack(decision(packed))
    (known,) = found.models
    assert known.deployment is not None and known.deployment.upstream is not None
    assert known.deployment.upstream.host == "h"
    assert known.deployment.runtime is RuntimeName.VLLM


def test_a_snapshot_that_is_too_large_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, policy = fleets.fleet(), fleets.policy()
    whole = pack(QUESTION, fleet, policy)
    monkeypatch.setattr(decision_record, "LARGEST", len(whole))
    assert pack(QUESTION, fleet, policy) == whole
    monkeypatch.setattr(decision_record, "LARGEST", len(whole) - 1)
    assert pack(QUESTION, fleet, policy) == ""


def test_a_decision_without_a_snapshot_cannot_be_unpacked() -> None:
    with pytest.raises(InputError, match="d1 has no stored snapshot"):
        unpack(decision(""))
