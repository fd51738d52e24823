"""What Serve says of its applications, as values (no I/O here)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtimes.ray.application import DIGEST_VARIABLE, KIND_VARIABLE, MODEL_VARIABLE


@dataclass(frozen=True, kw_only=True)
class ReplicaState:
    """One replica; it has no process and no node before it is placed."""

    id: str
    pid: int | None
    node_id: str
    node_ip: str


@dataclass(frozen=True, kw_only=True)
class Served:
    """One application."""

    name: str
    status: str
    """Serve's own word: ``RUNNING``, ``DEPLOYING``, ``DEPLOY_FAILED``, ``UNHEALTHY`` …"""
    message: str
    variables: Mapping[str, str]
    """Environment that it was deployed with."""
    replicas: tuple[ReplicaState, ...]

    @property
    def ours(self) -> bool:
        """Whether Modelium deployed it: a cluster may have other users."""
        return self.variables.get(MODEL_VARIABLE) == self.name

    @property
    def leaving(self) -> bool:
        """Whether it is being deleted; Serve does not tell any more then whose it is."""
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
        """Its processes on one node."""
        return tuple(r.pid for r in self.replicas if r.pid and r.node_ip == node_ip)


@dataclass(frozen=True, kw_only=True)
class Node:
    """One live node of the cluster."""

    id: str
    ip: str
    metrics_port: int
    head: bool


@dataclass(frozen=True, kw_only=True)
class Details:
    """All of it at one moment."""

    applications: Mapping[str, Served]
    nodes: tuple[Node, ...]
    proxy_healthy: bool
    """Whether an HTTP proxy listens and answers Serve's own checks."""


def read(document: Mapping[str, Any]) -> Details:
    """The answer of `ray_child.details`. Ray leaves fields out that are not known yet."""
    return Details(
        applications={
            name: _served(name, application)
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
        proxy_healthy="HEALTHY" in document["proxies"],
    )


def _served(name: str, application: Mapping[str, Any]) -> Served:
    deployments = list(application.get("deployments", {}).values())
    variables: dict[str, str] = {}
    for deployment in deployments:
        options = (deployment.get("deployment_config") or {}).get("ray_actor_options") or {}
        variables |= (options.get("runtime_env") or {}).get("env_vars") or {}
    # The application's message names the deployment only; the deployment's has the trace.
    messages = [application.get("message"), *(d.get("message") for d in deployments)]
    return Served(
        name=name,
        status=application["status"],
        message="\n".join(message for message in messages if message),
        variables=variables,
        replicas=tuple(
            ReplicaState(
                id=replica["replica_id"],
                pid=replica.get("pid"),
                node_id=replica.get("node_id") or "",
                node_ip=replica.get("node_ip") or "",
            )
            for deployment in deployments
            for replica in deployment.get("replicas", [])
        ),
    )
