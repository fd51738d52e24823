"""Where each model may be loaded: devices by runtime, node and the model's files (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agents.rules.device_groups import DeviceGroup, device_groups, suitable_groups
from modelium.models import (
    Deployment,
    Device,
    Fleet,
    Model,
    ModelProfile,
    RuntimeName,
    RuntimeStatus,
)
from modelium.models.load_time import fetch_seconds
from modelium.policy import Policy
from modelium.policy.node_rules import closed, refusal, spans_faults, unsuited

NAMED = 8
"""Nodes that a reason names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """Alike devices on which one build of a runtime is enabled, on any node."""

    status: RuntimeStatus
    """Of one of its nodes: version and device kinds are those of all."""
    group: DeviceGroup


class Sites:
    """The devices of one fleet, as one policy lets models use them. One per plan."""

    def __init__(self, *, fleet: Fleet, policy: Policy) -> None:
        """Group the healthy devices of ``fleet``."""
        self.groups = device_groups(fleet.devices)
        self._fleet = fleet
        self._policy = policy
        self._of: dict[RuntimeName, tuple[Site, ...]] = {}
        self._beside_gpus: dict[RuntimeName, bool] = {}
        self._open: dict[tuple[int, RuntimeName], DeviceGroup] = {}
        self._parts: dict[tuple[int, frozenset[str]], DeviceGroup] = {}
        self._closed = {node.name: closed(node) for node in fleet.nodes}
        self._fetching = frozenset(n.name for n in fleet.nodes if n.report.fetches)

    def of(self, runtime: RuntimeName, profile: ModelProfile) -> Iterator[Site]:
        """Yield where ``runtime`` may load a model of ``profile``, preferred kind first.

        Nodes on which nothing new is loaded now are among them.
        """
        sites = self._enabled(runtime)
        by_group = {id(site.group): site for site in sites}
        suited = suitable_groups(
            [site.group for site in sites], profile, beside_gpus=self._beside_gpus[runtime]
        )
        for group in suited:
            yield by_group[id(group)]

    def parts(self, model: Model, runtime: RuntimeName, group: DeviceGroup) -> list[DeviceGroup]:
        """Return the parts of ``group`` on which ``runtime`` may load ``model`` now.

        Those on nodes with its files first, then, where nodes may fetch them, all.
        """
        able = self._available(runtime, group)
        if not self._fleet.nodes or not able.devices:
            return [able] if able.devices else []
        base = model.twin_of or model.name
        having = self._fleet.files.get(model.name)
        if having is None and base not in self._policy.model_nodes:
            return [able]
        if base in self._policy.model_nodes:
            suited = frozenset(name for name in able.nodes if not self._unsuited(model, name))
            able = self._part(able, suited)
        if having is None:
            found = [able]
        elif any(not self._unsuited(model, name) for name in self._fetching - having):
            reached = having | self._fetching
            found = [self._part(able, having), self._part(able, reached)]
        else:
            found = [self._part(able, having)]
        return [part for part in found if part.devices]

    def spanned(self, site: Site) -> DeviceGroup:
        """Return the devices of ``site`` over whose nodes one model can be split."""
        able = (
            name
            for name in site.group.nodes
            if site.group.splits and not any(spans_faults(site.status.name, [name], self._fleet))
        )
        return self._part(site.group, frozenset(able))

    def fetch_s(self, model: Model, devices: Iterable[str]) -> float:
        """Return the seconds until the nodes of ``devices`` have the files of ``model``."""
        if model.name not in self._fleet.files:
            return 0.0
        known = self._fleet.devices_by_id
        return max((fetch_seconds(model, known[d].node, self._fleet) for d in devices), default=0.0)

    def wakes(self, model: Model, held: Deployment) -> bool:
        """Whether ``model``, which sleeps, may be woken where it is.

        An operator's cordon or drain of its node does not keep it from that.
        """
        for node in held.nodes:
            status = self._fleet.runtime_on(held.runtime, node)
            if status is None or not status.healthy:
                return False
            if refusal(model, node, self._fleet, self._policy, waking=True) is not None:
                return False
        return True

    def refusals(self, model: Model) -> list[str]:
        """Return why nodes do not take ``model`` now, those of one reason together."""
        found: dict[str, list[str]] = {}
        for node in self._fleet.nodes:
            fault = refusal(model, node.name, self._fleet, self._policy)
            if fault is not None:
                found.setdefault(fault[0], []).append(fault[1])
        return [_joined(messages) for messages in found.values()]

    def _unsuited(self, model: Model, node: str) -> bool:
        known = self._fleet.nodes_by_name[node]
        return unsuited(model, known, self._fleet, self._policy) is not None

    def _enabled(self, runtime: RuntimeName) -> tuple[Site, ...]:
        """Return the sites of ``runtime``, one per group of devices and version of the engine."""
        if runtime in self._of:
            return self._of[runtime]
        fleet, sites = self._fleet, []
        if not self._policy.rules(runtime).enabled:
            self._of[runtime], self._beside_gpus[runtime] = (), False
            return ()
        for group in self.groups:
            builds: dict[tuple[str, bool, bool], list[Device]] = {}
            found: dict[tuple[str, bool, bool], RuntimeStatus] = {}
            for device in group.devices:
                status = fleet.runtime_on(runtime, device.node)
                if status is None or not status.enabled or device.kind not in status.device_kinds:
                    continue
                build = status.version, status.can_sleep, status.spans_nodes
                builds.setdefault(build, []).append(device)
                found.setdefault(build, status)
            for build, devices in builds.items():
                whole = len(devices) == len(group.devices)
                part = group if whole else group.part(devices)
                sites.append(Site(status=found[build], group=part))
        self._beside_gpus[runtime] = any(
            device.kind == "gpu" and "gpu" in status.device_kinds
            for device in fleet.devices
            for status in [fleet.runtime_on(runtime, device.node)]
            if status is not None and status.enabled
        )
        self._of[runtime] = tuple(sites)
        return self._of[runtime]

    def _available(self, runtime: RuntimeName, group: DeviceGroup) -> DeviceGroup:
        """Return the devices of ``group`` on nodes that take models, where ``runtime`` answers."""
        key = id(group), runtime
        found = self._open.get(key)
        if found is None:
            able = frozenset(
                name
                for name in group.nodes
                for status in [self._fleet.runtime_on(runtime, name)]
                if status is not None and status.enabled and status.healthy
                if not self._fleet.nodes or (name in self._closed and not self._closed[name])
            )
            found = self._open[key] = self._part(group, able)
        return found

    def _part(self, group: DeviceGroup, nodes: frozenset[str]) -> DeviceGroup:
        """Return the devices of ``group`` on ``nodes``: the same object each time."""
        nodes = nodes.intersection(group.nodes)
        if len(nodes) == len(group.nodes):
            return group
        key = id(group), nodes
        found = self._parts.get(key)
        if found is None:
            devices = [d for name, held in group.nodes.items() if name in nodes for d in held]
            found = self._parts[key] = group.part(devices)
        return found


def _joined(messages: list[str]) -> str:
    more = len(messages) - NAMED
    return "; ".join(messages[:NAMED]) + (f"; and {more} more nodes alike" if more > 0 else "")
