"""A model over several nodes, seen from the first one: it has the parts loaded, watched and ended.

The rows of the store are orders and reports; `modelium.stages.part_work` is the other nodes' side.
All parts live and end together: one that fails ends the load, or has the model loaded anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from modelium.config.hosts import free_port
from modelium.errors import FailureKind, LoadFailed, ModeliumError, Unavailable
from modelium.models import Deployment, Node
from modelium.models.parts import Part
from modelium.ports import Loaded, Span
from modelium.stages.services import Services
from modelium.store import new_id

END_S = 120.0
"""For the other nodes to end their parts of a load that failed; then they are asked again."""

POLL_S = 0.5
"""Between two looks at the parts; a change of the store wakes earlier."""


def is_split(deployment: Deployment) -> bool:
    """Whether ``deployment`` is over several nodes."""
    return len(deployment.nodes) > 1


def addresses(nodes: Iterable[Node], wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the hosts by which the nodes ``wanted`` reach each other, in that order.

    Raises:
        LoadFailed: of kind ``environment``: a node has named no address.
    """
    known = {node.name: node.report.address for node in nodes}
    hosts = {name: urlsplit(known.get(name) or "").hostname for name in wanted}
    if missing := [name for name, host in hosts.items() if not host]:
        raise LoadFailed(
            f"a model over several nodes needs an address of each: set gateway.advertise on "
            f"{', '.join(missing)}",
            kind=FailureKind.ENVIRONMENT,
        )
    return tuple(f"{hosts[name]}" for name in wanted)


def trouble(parts: Iterable[Part], deployment: Deployment) -> str:
    """Return why a loaded ``deployment`` cannot answer, as its other nodes say; empty: it can.

    A silent node has said nothing: what it runs is unknown, not gone.
    """
    found = {part.node: part for part in parts if _is_of(part, deployment)}
    for node in deployment.nodes[1:]:
        part = found.get(node)
        if part is None:
            return f"its part on {node} has ended"
        if part.state == "failed":
            return f"its part on {node} failed: {part.detail}"
    return ""


def _is_of(part: Part, deployment: Deployment) -> bool:
    return part.deployment.started_at == deployment.started_at


async def load(
    services: Services, deployment: Deployment, begin: Callable[[Span], Awaitable[Loaded]]
) -> Loaded:
    """Have the other nodes load their parts while ``begin`` loads the first one.

    It begins when all have the files: an engine does not wait for another's for long. However it
    fails, ``begin`` has ended; the caller has to `end` the other parts.

    Raises:
        LoadFailed: a part failed.
        ModeliumError: a node is silent, or what ``begin`` raises.
    """
    span = await _order(services, deployment)
    loading = asyncio.ensure_future(_begin(services, deployment, begin, span))
    watching = asyncio.ensure_future(_first_failure(services, deployment))
    try:
        await asyncio.wait({loading, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            raise watching.result()
        return loading.result()
    finally:
        watching.cancel()
        if not loading.done():
            loading.cancel()
            await asyncio.shield(asyncio.gather(loading, return_exceptions=True))


async def _begin(
    services: Services,
    deployment: Deployment,
    begin: Callable[[Span], Awaitable[Loaded]],
    span: Span,
) -> Loaded:
    while not _are_prepared(await services.store.parts.of(deployment.model), deployment):
        await services.pulse.wait(services.clock, limit_s=POLL_S)
    return await begin(span)


def _are_prepared(parts: Iterable[Part], deployment: Deployment) -> bool:
    done = {p.node for p in parts if p.state in ("prepared", "running") and _is_of(p, deployment)}
    return done >= set(deployment.nodes[1:])


async def _order(services: Services, deployment: Deployment) -> Span:
    nodes = deployment.nodes
    hosts = addresses(await services.store.nodes.all(), nodes)
    try:
        port = await asyncio.to_thread(free_port, hosts[0])
    except OSError as exc:
        raise LoadFailed(
            f"{hosts[0]} of gateway.advertise is no address of this machine: set one of its own, "
            "at which the other nodes reach it",
            kind=FailureKind.ENVIRONMENT,
        ) from exc
    id = new_id()
    await services.store.parts.want(
        Part(id=id, node=node, deployment=deployment, addresses=hosts, port=port)
        for node in nodes[1:]
    )
    return Span(rank=0, addresses=hosts, port=port)


async def _first_failure(services: Services, deployment: Deployment) -> ModeliumError:
    """Return why a part cannot be loaded, once that is so."""
    while True:
        with suppress(Unavailable):
            parts = await services.store.parts.of(deployment.model)
            if why := trouble(parts, deployment):
                failed = next((part for part in parts if part.state == "failed"), None)
                kind = failed.kind if failed else FailureKind.UNKNOWN
                return LoadFailed(f"{deployment.model}: {why}", kind=kind)
            for node in await services.store.nodes.all():
                if node.silent and node.name in deployment.nodes[1:]:
                    return Unavailable(f"{node.name}, which loads a part of it, is silent")
        await services.pulse.wait(services.clock, limit_s=POLL_S)


async def end(services: Services, deployment: Deployment, *, limit_s: float) -> None:
    """Have all other nodes end their parts, and wait until they have.

    What a silent node runs becomes a stray: it clears it before anything is loaded there.

    Raises:
        ModeliumError: a node has not ended its part within ``limit_s``.
    """
    store, name = services.store.parts, deployment.model
    bound = services.clock.monotonic() + limit_s
    await store.end(name)
    while parts := await store.of(name):
        silent = {node.name for node in await services.store.nodes.all() if node.silent}
        for part in parts:
            if part.node in silent:
                await store.stray(part)
        left = sorted(part.node for part in parts if part.node not in silent)
        if left and services.clock.monotonic() > bound:
            raise ModeliumError(
                f"{', '.join(left)} did not end the part of {name} within {limit_s:.0f} s; it is "
                "asked again"
            )
        if left:
            await services.pulse.wait(services.clock, limit_s=POLL_S)
