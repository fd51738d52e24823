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
