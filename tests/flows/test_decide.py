"""What Prefect may ask of the decide flow."""

from prefect.utilities.callables import parameter_schema

from flows.decide import decide


def test_nobody_can_book_a_plan_of_their_own_or_leave_one_uncarried_through_prefect() -> None:
    assert set(parameter_schema(decide.fn).properties) == {"model", "trigger", "handed"}
