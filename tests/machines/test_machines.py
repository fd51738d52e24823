"""A sample of `make machines`: three machines, real llama.cpp and PostgreSQL, the planner killed."""

from __future__ import annotations

import pytest

from tests.machines.fleet import fleet
from tests.machines.scenarios import SCENARIOS
from tests.machines.trial import trial

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]


def test_every_gateway_answers_for_all_and_the_planner_may_die() -> None:
    with fleet(triton=False, prefect=False) as machines:
        found = [trial(machines, scenario, seed=1) for scenario in SCENARIOS if scenario.small]
        wrong = {outcome.scenario: outcome.violations for outcome in found if outcome.violations}
        assert wrong == {}, machines.keep()
        assert machines.remains() == []
    assert all(outcome.requests["answered"] > 0 for outcome in found)
