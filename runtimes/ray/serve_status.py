"""Parses the status that Serve reports: applications, replicas, nodes and proxy (no I/O here)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtimes.ray.application import (
    DIGEST_VARIABLE,
    KIND_VARIABLE,
    MODEL_VARIABLE,
    OWNER_VARIABLE,
)

HEALTHY = "HEALTHY"
UNUSED = frozenset({"DRAINING", "DRAINED"})
"""States of a proxy whose node has no replica any more; it comes back with the next one."""


@dataclass(frozen=True, kw_only=True)
class ReplicaStatus:
    """One replica; before it is placed it has neither process nor node."""

    id: str
    pid: int | None
    node_id: str
    node_ip: str
    entry: bool = True
    """Whether it gets the requests of clients; others get those of the application's own."""


@dataclass(frozen=True, kw_only=True)
class ApplicationStatus:
    """One application."""

    name: str
    status: str
    """Serve's own value: ``RUNNING``, ``DEPLOYING``, ``DEPLOY_FAILED``, ``UNHEALTHY`` …"""
    message: str
    variables: Mapping[str, str]
    """Environment variables of its replicas."""
    replicas: tuple[ReplicaStatus, ...]
    owner: str
    """The Modelium that asks."""

    @property
    def ours(self) -> bool:
        """Whether this Modelium deployed it: a cluster may have other users.

        Earlier versions named no owner.
        """
        owner = self.variables.get(OWNER_VARIABLE, self.owner)
        return self.variables.get(MODEL_VARIABLE) == self.name and owner == self.owner

    @property
    def deleting(self) -> bool:
        """Whether it is being deleted; Serve no longer reports its ``variables`` then."""
        return self.status == "DELETING"

    @property
    def digest(self) -> str:
        """`Application.digest` that it was deployed with."""
        return self.variables.get(DIGEST_VARIABLE, "")

    @property
    def kind(self) -> str:
        """Kind of model, as in the replica's spec."""
        return self.variables.get(KIND_VARIABLE, "")

    def pids(self, node_ip: str) -> tuple[int, ...]:
        """Return the pids of its replicas on one node."""
        return tuple(r.pid for r in self.replicas if r.pid and r.node_ip == node_ip)


@dataclass(frozen=True, kw_only=True)
class Node:
    """One live node of the cluster."""

    id: str
    ip: str
    metrics_port: int
    head: bool


@dataclass(frozen=True, kw_only=True)
class ServeStatus:
    """Everything that Serve reports at one moment."""

    applications: Mapping[str, ApplicationStatus]
    nodes: tuple[Node, ...]
    proxy_healthy: bool
    """Whether the HTTP proxy of this node answers Serve's own checks, or is not needed yet."""


def parse(document: Mapping[str, Any], *, owner: str = "", node_ip: str = "") -> ServeStatus:
    """Parse the result of `client_process.status`. Ray omits fields that are not known yet.

    ``owner`` identifies this Modelium, as in `build_application`; ``node_ip``: of this machine.
    """
    return ServeStatus(
        applications={
            name: _application(name, application, owner)
            for name, application in document["applications"].items()
        },
        nodes=tuple(
            Node(
                id=node["id"],
                ip=node["ip"],
                metrics_port=node["metrics_port"],
                head="node:__internal_head__" in node["resources"],
            )
            for node in document["nodes"]
        ),
        proxy_healthy=_is_proxy_healthy(document["proxies"], node_ip),
    )


def _is_proxy_healthy(proxies: Sequence[Mapping[str, str]], node_ip: str) -> bool:
    """Whether requests get through, or will: Serve starts a node's proxy with its first replica."""
    here = {proxy["status"] for proxy in proxies if proxy["ip"] == node_ip}
    if here <= UNUSED:
        return any(proxy["status"] == HEALTHY for proxy in proxies)
    return HEALTHY in here


def _application(name: str, application: Mapping[str, Any], owner: str) -> ApplicationStatus:
    by_name = application.get("deployments", {})
    deployments = list(by_name.values())
    ingress = (application.get("deployment_topology") or {}).get("ingress_deployment")
    variables: dict[str, str] = {}
    for deployment in deployments:
        options = (deployment.get("deployment_config") or {}).get("ray_actor_options") or {}
        variables |= (options.get("runtime_env") or {}).get("env_vars") or {}
    # The traceback is in the deployment's message; the application's only names the deployment.
    messages = [application.get("message"), *(d.get("message") for d in deployments)]
    return ApplicationStatus(
        name=name,
        status=application["status"],
        message="\n".join(message for message in messages if message),
        variables=variables,
        owner=owner,
        replicas=tuple(
            ReplicaStatus(
                id=replica["replica_id"],
                pid=replica.get("pid"),
                node_id=replica.get("node_id") or "",
                node_ip=replica.get("node_ip") or "",
                entry=ingress in (None, part),
            )
            for part, deployment in by_name.items()
            for replica in deployment.get("replicas", [])
        ),
    )
