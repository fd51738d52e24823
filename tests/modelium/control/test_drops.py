"""A drop that could not be taken in for now is tried again."""

from __future__ import annotations

import pytest

from modelium.control.drops import DropRun
from modelium.errors import InputError, ModeliumError, Unavailable
from modelium.models import Report


async def failing(error: Exception) -> Report:
    raise error


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (OSError(28, "No space left on device"), True),
        (Unavailable("it is being removed"), True),
        (InputError("it does not exist"), False),
    ],
)
async def test_what_is_not_the_drops_fault_is_tried_again(error: Exception, again: bool) -> None:
    asked: list[bool] = []
    with pytest.raises(ModeliumError, match=str(error.args[-1])):
        await DropRun(run=failing(error), again=lambda: asked.append(True))
    assert bool(asked) is again


async def test_a_drop_that_is_taken_in_is_not_tried_again() -> None:
    report = Report(stage="ingest", outcome="registered")

    async def run() -> Report:
        return report

    asked: list[bool] = []
    assert await DropRun(run=run(), again=lambda: asked.append(True)) is report
    assert asked == []


async def test_a_full_disk_is_told_with_what_becomes_of_the_drop() -> None:
    with pytest.raises(Unavailable) as told:
        await DropRun(run=failing(OSError("disk full")), again=lambda: None)
    assert str(told.value) == "disk full; the drop is kept, and tried again in a while"
