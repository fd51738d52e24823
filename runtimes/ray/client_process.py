"""The program that speaks to Ray, in a process of its own; `ray_bridge` is its other end.

Ray ends the process of a driver 60 s after the GCS died ("The program will terminate"), its
calls block without a deadline, and one process can know one cluster only. So Modelium never
imports Ray: it runs this file and reads one line of JSON per answer. Applications outlive it.

Requests: ``{"id": 1, "op": "deploy", …}``. Answers: ``{"id": 1, "result": …}`` or
``{"id": 1, "error": "…", "type": "…"}``. The end of its input ends it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

NAMESPACE = "modelium"
LOGGING = {"enable_access_log": False}
"""A line per request is the gateway's business, and would fill Ray's folder."""


def connect(*, address: str, host: str, port: int) -> dict[str, Any]:
    """Join the cluster and make sure that Serve and its HTTP proxy run."""
    import ray
    from ray import serve

    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="WARNING")
    serve.start(
        http_options={"host": host, "port": port, "location": "HeadOnly"}, logging_config=LOGGING
    )
    return {"version": ray.__version__, "node_ip": ray.util.get_node_ip_address()}


def deploy(*, name: str, options: dict[str, Any], spec: dict[str, Any]) -> None:
    """Ask for an application; it is not waited for."""
    from ray import cloudpickle, serve

    from runtimes.ray import replica

    # Replicas run in other environments and on other machines: they get the code itself.
    cloudpickle.register_pickle_by_value(replica)
    deployment = serve.deployment(replica.Replica).options(**options)
    target = serve.RunTarget(
        target=deployment.bind(spec), name=name, route_prefix=f"/{name}", logging_config=LOGGING
    )
    serve.run_many([target], wait_for_applications_running=False)


def delete(*, name: str) -> None:
    """Ask for the end of an application; unknown ones are fine."""
    from ray import serve

    serve.delete(name, _blocking=False)


def kill(*, name: str) -> None:
    """Kill the replicas of an application that is being deleted but does not end."""
    import ray
    from ray.util import list_named_actors

    # Serve does not tell of the replicas of an application that is being deleted.
    for actor in list_named_actors(all_namespaces=True):
        if actor["namespace"] == "serve" and actor["name"].startswith(f"SERVE_REPLICA::{name}#"):
            with contextlib.suppress(ValueError):  # it has just ended by itself
                ray.kill(ray.get_actor(actor["name"], namespace="serve"), no_restart=True)


def details() -> dict[str, Any]:
    """Applications with their replicas, proxies and nodes; `ray_details` reads it."""
    import ray

    found = _client().get_serve_details()
    return {
        "applications": found["applications"],
        "proxies": [proxy["status"] for proxy in found["proxies"].values()],
        "nodes": [
            {
                "id": node["NodeID"],
                "ip": node["NodeManagerAddress"],
                "metrics_port": node["MetricsExportPort"],
                "resources": node.get("Resources", {}),
            }
            for node in ray.nodes()
            if node["Alive"]
        ],
    }


def _client() -> Any:
    # The one inside knowledge of Ray here: the public `serve.status()` has no process ids.
    from ray.serve.context import _get_global_client

    return _get_global_client()


OPERATIONS: dict[str, Callable[..., Any]] = {
    "connect": connect,
    "deploy": deploy,
    "delete": delete,
    "kill": kill,
    "details": details,
}


def main() -> None:
    """Answer requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever Ray prints goes to the log, not between the answers
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {"id": request.pop("id")}
        try:
            answer["result"] = OPERATIONS[request.pop("op")](**request)
        except Exception as exc:
            answer |= {"error": str(exc), "type": type(exc).__name__}
        answers.write(json.dumps(answer, default=str) + "\n")
        answers.flush()
    os._exit(0)  # Ray's own exit handlers may wait for a cluster that is gone


if __name__ == "__main__":
    main()
