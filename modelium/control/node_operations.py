"""Operators' view of the machines that share the store, and what they may ask of them."""

from __future__ import annotations

from pydantic import Field

from modelium import __version__
from modelium.errors import InputError
from modelium.lifecycle import IN_TRANSITION
from modelium.models import Fleet, Frozen, Keep, Model, Node, NodeReport, NodeState, Trigger, Unload
from modelium.ports import Question
from modelium.stages.services import Services
from modelium.stages.snapshot import snapshot
from modelium.store.nodes import TOKEN_S, unknown

CHANGED = {"active": "node.uncordoned", "cordoned": "node.cordoned", "draining": "node.draining"}
"""Events of changes of a node's state."""


class NodeRow(Frozen):
    """One machine, as operators see it."""

    name: str
    state: NodeState
    silent: bool = False
    """Whether nobody knows what it does; ``heartbeat_s`` says for how long."""
    heartbeat_s: float = 0.0
    """Seconds since its last heartbeat, by the database's clock."""
    plans: bool = False
    """Whether it is the one that plans."""
    here: bool = False
    """Whether it is the one that answers this."""
    placeable: bool = True
    """Whether models may be loaded there."""
    strays: int = 0
    """Models that it has to end first, which were loaded elsewhere while it was silent."""
    models: tuple[str, ...] = ()
    """What it has, or begins to have, by name; one over several nodes is in each."""
    report: NodeReport
    """What it said of itself last."""


class NodeDetail(Frozen):
    """One machine, and what keeps its models there while it is being drained."""

    node: NodeRow
    leaving: tuple[str, ...] = ()
    """Models that are being unloaded there, or would be next."""
    staying: dict[str, str] = Field(default_factory=dict)
    """Model → why it stays, for now; empty unless the node is being drained."""


class Removed(Frozen):
    """What the removal of a node has done."""

    name: str
    queued: tuple[str, ...]
    """The models that were on it; they are loaded elsewhere where there is room."""


class JoinToken(Frozen):
    """What a new machine joins with."""

    token: str
    valid_s: float
    """Seconds for which it is valid, once."""


class NodeOperations:
    """Lists nodes, and changes what they are used for."""

    def __init__(self, *, services: Services) -> None:
        """Act with ``services``."""
        self._services = services

    async def all(self) -> list[NodeRow]:
        """Return all nodes, by name; with SQLite the only one."""
        return self._rows(await snapshot(self._services))

    async def show(self, name: str, /) -> NodeDetail:
        """Return one node.

        Raises:
            InputError: no node has that name.
        """
        services = self._services
        fleet = await snapshot(services)
        row = next((row for row in self._rows(fleet) if row.name == name), None)
        if row is None:
            raise InputError(unknown(name))
        if row.state != "draining":
            return NodeDetail(node=row)
        # The rules are asked what the planning node's next sweep would do; nothing is done here.
        question = Question(trigger=Trigger.UPKEEP, model=None, now=services.clock.time())
        plan = await services.brain.decide(question, fleet, services.policy)
        held = set(row.models)
        going = {one.model for one in plan.actions if isinstance(one, Unload)}
        going |= {m.name for m in fleet.models if m.state in IN_TRANSITION}
        why = {one.model: one.reason for one in plan.actions if isinstance(one, Keep)}
        begins = f"stays on node {name}, which is being drained: "
        return NodeDetail(
            node=row,
            leaving=tuple(sorted(going & held)),
            staying={
                model: why.get(model, "nothing was decided about it yet").removeprefix(begins)
                for model in sorted(held - going)
            },
        )

    async def set_state(self, name: str, state: NodeState, /) -> NodeRow:
        """Cordon or drain a node, or use it again.

        Raises:
            InputError: no node has that name, or there is one machine.
        """
        services = self._shared(f"{name} cannot be taken out of use")
        await services.store.nodes.set_state(name, state)
        await services.store.events.append(CHANGED[state], node=name)
        return (await self.show(name)).node

    async def remove(self, name: str, /) -> Removed:
        """Forget a silent node for good; its models are queued again.

        Raises:
            InputError: no node has that name, it is not silent, or there is one machine.
        """
        services = self._shared(f"{name} cannot be removed")
        queued = await services.store.nodes.remove(name)
        await services.store.events.append("node.removed", node=name, queued=list(queued))
        return Removed(name=name, queued=queued)

    async def issue_token(self) -> JoinToken:
        """Return a new join token; only this answer holds it.

        Raises:
            InputError: there is one machine.
        """
        services = self._shared("no machine can join")
        token = await services.store.nodes.issue_token()
        await services.store.events.append("node.token", node=services.node)
        return JoinToken(token=token, valid_s=TOKEN_S)

    def _shared(self, what: str) -> Services:
        if not self._services.node:
            raise InputError(
                f"{what}: this store is a SQLite file, which one machine has for itself; several "
                "machines share one on PostgreSQL (store.url)"
            )
        return self._services

    def _rows(self, fleet: Fleet) -> list[NodeRow]:
        here = self._services.node
        nodes = fleet.nodes or (self._alone(fleet),)
        return [
            NodeRow(
                name=node.name,
                state=node.state,
                silent=node.silent,
                heartbeat_s=node.silent_s,
                plans=node.plans,
                here=node.name == (here or node.name),
                placeable=node.placeable,
                strays=node.strays,
                models=tuple(sorted(m.name for m in fleet.models if _is_on(m, node.name, here))),
                report=_without_processes(node.report),
            )
            for node in nodes
        ]

    def _alone(self, fleet: Fleet) -> Node:
        """Return the only machine, as it would report itself."""
        orchestration = self._services.config.orchestration
        report = NodeReport(
            version=__version__,
            labels=orchestration.node_labels,
            devices=fleet.devices,
            runtimes=fleet.runtimes,
        )
        return Node(name=orchestration.node, plans=True, report=report)


def _is_on(model: Model, node: str, here: str) -> bool:
    """Whether ``node`` has something of ``model``; ``here`` is empty where there is one node."""
    return model.deployment is not None and (not here or node in model.deployment.nodes)


def _without_processes(report: NodeReport) -> NodeReport:
    """Return ``report`` without the processes on its devices, which concern nobody elsewhere."""
    devices = tuple(one.model_copy(update={"processes": ()}) for one in report.devices)
    return report.model_copy(update={"devices": devices})
