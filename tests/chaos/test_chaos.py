"""A sample of `make chaos`: one trial each of faults that need no luck."""

from __future__ import annotations

import pytest

from tests.chaos.__main__ import outcomes

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

SAMPLE = ["kill-publishing", "kill-loading", "store-locked", "disk-full"]


def test_nothing_is_violated() -> None:
    found = list(outcomes(1, SAMPLE))

    assert [outcome.fault for outcome in found] == SAMPLE
    wrong = {outcome.fault: outcome.violations for outcome in found if outcome.violations}
    assert wrong == {}
