"""Services are found in the context that they were provided in."""

from __future__ import annotations

import contextvars

import pytest

from modelium.stages.services import current, provide
from tests.modelium.conftest import World


def test_a_flow_outside_the_service_fails_with_the_command_to_use() -> None:
    with pytest.raises(RuntimeError, match="modelium up"):
        contextvars.Context().run(current)


async def test_provided_services_are_found(world: World) -> None:
    context = contextvars.copy_context()
    context.run(provide, world.services)
    assert context.run(current) is world.services
