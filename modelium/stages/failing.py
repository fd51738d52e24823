"""A model that fails every request: checked with a request whose failure is no client's fault."""

from __future__ import annotations

import asyncio

from modelium.models import Deployment, Model
from modelium.stages.services import Services

FAILING = 20
"""Failed answers in a row after which a model is checked. A version on trial goes sooner."""

CHECK_S = 15.0
"""For that check; the loop waits for it."""


async def failure(services: Services, model: Model, deployment: Deployment) -> str:
    """Return what is wrong with a ready model that fails every request; empty: nothing known."""
    failed = services.switchboard.failing(model.name)
    if failed < FAILING:
        return ""
    try:
        async with asyncio.timeout(CHECK_S):
            runtime = services.runtimes[deployment.runtime]
            problem = await runtime.check(deployment.name, handle=deployment.handle)
    except TimeoutError:
        return ""  # a silence is judged by the driver
    if not problem:
        services.switchboard.forgive(model.name)
        return ""
    return f"its last {failed} answers failed, and so did a request of Modelium's own: {problem}"
