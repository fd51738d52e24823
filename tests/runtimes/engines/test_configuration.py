from __future__ import annotations

import hashlib

import pytest

from modelium.config import Vllm
from runtimes.engines.configuration import changed, fingerprint

SECTION = Vllm(enabled=True, executable="/opt/vllm", environment={"B": "2", "A": "1"})


def digest(json: str) -> str:
    return hashlib.sha256(json.encode()).hexdigest()[:12]


def test_a_fingerprint_has_a_digest_of_each_field_that_engines_depend_on() -> None:
    found = fingerprint(SECTION)
    left_out = {"enabled", "base_port", "allowed_extra", "unhealthy_after_seconds"}
    assert found.keys() == Vllm.model_fields.keys() - left_out
    assert found["executable"] == digest('"/opt/vllm"')
    assert found["environment"] == digest('{"A": "1", "B": "2"}')


@pytest.mark.parametrize(
    ("recorded", "fields"),
    [
        ({"a": "1", "b": "2", "c": "3"}, []),
        ({"a": "9", "b": "2", "c": "8"}, ["a", "c"]),
        ({"b": "9"}, ["b"]),
        ({"gone": "1"}, []),
        (None, []),
        ("abc", []),
    ],
)
def test_what_changed_is_what_was_recorded_otherwise(recorded: object, fields: list[str]) -> None:
    assert changed(recorded, {"c": "3", "b": "2", "a": "1"}) == fields
