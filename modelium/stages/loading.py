"""The call that has a runtime load a model."""

from __future__ import annotations

import asyncio

from modelium.errors import FailureKind, LoadFailed
from modelium.ports import Loaded, LoadRequest, Progress, Runtime

OVERTIME_S = 60.0
"""Beside the deadline of a load, for its driver to end it."""


async def within_bound(runtime: Runtime, request: LoadRequest, progress: Progress) -> Loaded:
    """Load, within a bound even where the driver keeps none.

    Raises:
        LoadFailed: the runtime refused it, or neither loaded it nor gave up.
    """
    bound = request.deadline_s + OVERTIME_S
    try:
        async with asyncio.timeout(bound):
            return await runtime.load(request, progress=progress)
    except TimeoutError as exc:
        raise LoadFailed(
            f"{runtime.name.value} neither loaded {request.model} nor gave up within {bound:.0f} s",
            kind=FailureKind.STUCK,
        ) from exc
