"""What the account calls answered, gone, lost and wrong."""

from __future__ import annotations

import pytest

from tests.machines.client import Account, Away, Request


def request(**changes: object) -> Request:
    """A request for ``m`` at the gateway of ``one``, sent at 10 s and answered at 12 s."""
    given = {"id": "r1", "gateway": "one", "model": "m", "sent": 10.0, "ended": 12.0, "status": 200}
    return Request(**{**given, **changes})  # type: ignore[arg-type]


def verdict(one: Request, *away: Away) -> str:
    account = Account(requests=(one,), away=away)
    account.judge()
    (found,) = account.verdicts
    assert bool(account.wrong) == (found == "wrong")
    return found


def test_a_right_answer_is_one_wherever_machines_were_away() -> None:
    assert verdict(request(), Away(machine="one", since=11.0)) == "answered"


def test_an_answer_of_another_model_is_wrong() -> None:
    assert verdict(request(said="answered by n")) == "wrong"


def test_a_connection_breaks_with_its_own_gateway_alone() -> None:
    broken = request(status=None, said="ReadError")

    assert verdict(broken, Away(machine="one", since=11.0)) == "gone"
    assert verdict(broken, Away(machine="two", since=11.0)) == "wrong"
    assert verdict(broken, Away(machine="one", since=1.0, until=9.0)) == "wrong"


def test_a_gateway_that_is_stopped_sends_those_who_wait_away() -> None:
    told = request(status=503, said="Modelium is shutting down; retry later")

    assert verdict(told, Away(machine="one", since=11.0)) == "gone"
    assert verdict(told, Away(machine="two", since=11.0)) == "wrong"
    assert verdict(request(status=503), Away(machine="one", since=11.0)) == "wrong"


@pytest.mark.parametrize("status", [502, 503, None])
def test_what_was_on_its_way_to_a_machine_that_went_is_lost(status: int | None) -> None:
    away = Away(machine="two", since=11.0, models=frozenset({"m"}))

    assert verdict(request(status=status), away) == "lost"


def test_a_refusal_after_a_machine_went_is_wrong() -> None:
    away = Away(machine="two", since=9.0, models=frozenset({"m"}))

    assert verdict(request(status=503), away) == "wrong"


def test_a_request_without_an_end_is_wrong() -> None:
    assert verdict(request(status=None, ended=None)) == "wrong"
