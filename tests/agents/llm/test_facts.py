"""What an LLM is told of a model and of the time."""

from __future__ import annotations

import pytest

from agents.llm.facts import local_time, model_facts
from modelium.models import Traffic
from tests.fakes.fleets import NOW, loaded, model, policy


def test_a_model_is_told_with_what_is_known_of_it_alone() -> None:
    assert model_facts(model("m", 20), policy(), NOW) == {
        "team": None,
        "class": "low",
        "load_s": 20,
        "requests": 0,
        "requests_per_hour": 0.0,
        "chance_of_a_request_soon": 0.0,
    }
    used = Traffic(
        completed=7,
        pending=2,
        qps_last_hour=0.01,
        latency_p50_s=0.12345,
        last_request_at=NOW - 61.4,
    )
    busy = loaded("m", "n/g0", traffic=used, team="lab\n!", failures=3)
    assert model_facts(busy, policy(), NOW) == {
        "team": "lab",
        "class": "low",
        "load_s": 30,
        "requests": 7,
        "requests_per_hour": 36.0,
        "chance_of_a_request_soon": 0.0,
        "latency_p50_s": 0.123,
        "last_request_ago_s": 61,
        "requests_waiting": 2,
        "failed_loads": 3,
    }


@pytest.mark.parametrize(
    ("zone", "told"),
    [
        ("UTC", "Friday 08:00 UTC"),
        ("Asia/Tokyo", "Friday 17:00 JST"),
        ("America/New_York", "Friday 03:00 EST"),
        ("Nowhere/Atall", "Friday 08:00 UTC"),
        ("../x", "Friday 08:00 UTC"),
    ],
)
def test_the_time_is_that_of_the_operator(zone: str, told: str) -> None:
    assert local_time(NOW, policy(time_zone=zone)) == told
