from __future__ import annotations

import pytest

from modelium.models import (
    Traffic,
)
from modelium.policy.eligibility import should_load, should_unload
from tests.fakes.fleets import NOW, loaded, model, policy


@pytest.mark.parametrize(
    ("idle_s", "qps", "pinned", "expected"),
    [
        (3601, 0.0, False, True),
        (3600, 0.0, False, False),
        (3601, 0.1, False, False),
        (3601, 0.0, True, False),
    ],
)
def test_should_unload_follows_the_seed(
    idle_s: float, qps: float, pinned: bool, expected: bool
) -> None:
    one = loaded("a", "n/g0", traffic=Traffic(last_request_at=NOW - idle_s, qps_last_hour=qps))
    by = policy(always_loaded=frozenset({"a"} if pinned else set()))
    assert should_unload(one, by, now=NOW) is expected


def test_should_load_follows_the_seed() -> None:
    one = model("a", traffic=Traffic(pending=1))
    assert should_load(one, policy())
    assert not should_load(one, policy(pending_requests_threshold=1))
