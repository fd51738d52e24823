"""The child process that calls Ray; `runtimes.ray.client.RayClient` runs it.

Ray terminates the process of a driver 60 s after the GCS died, its calls block without a
deadline, and one process can connect to one cluster only. So Modelium never imports Ray: it runs
this module and reads one line of JSON per response. Applications outlive the process.

Requests: ``{"id": 1, "op": "deploy", …}``. Responses: ``{"id": 1, "result": …}`` or
``{"id": 1, "error": "…", "type": "…"}``. The process exits when its input ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

NAMESPACE = "modelium"
LOGGING = {"enable_access_log": False}
"""The gateway logs requests; access logs of Serve would fill Ray's folder."""
STOP_S = 10.0
"""How long a task may take to die."""


def connect(*, address: str, host: str, port: int, location: str) -> dict[str, Any]:
    """Connect to the cluster and start Serve and its HTTP proxies unless they run.

    ``location``: which nodes get a proxy, in Serve's words.
    """
    import ray
    from ray import serve

    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="WARNING")
    serve.start(
        http_options={"host": host, "port": port, "location": location}, logging_config=LOGGING
    )
    found = _client().http_config  # of a Serve that ran before, maybe another one
    return {
        "version": ray.__version__,
        "node_ip": _own_ip(address) or ray.util.get_node_ip_address(),
        "port": found.port,
        "location": getattr(found.location, "value", found.location),
    }


def _own_ip(address: str) -> str:
    """Return the address of this machine's raylet; empty: it cannot be told that way.

    Ray itself takes any raylet of the machine, which may have several in network namespaces.
    """
    import ray

    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError, ValueError):
        with socket.create_connection((host, int(port)), timeout=STOP_S) as connection:
            own = str(connection.getsockname()[0])
        if any(node["Alive"] and node["NodeManagerAddress"] == own for node in ray.nodes()):
            return own
    return ""


def deploy(*, name: str, options: dict[str, Any], spec: dict[str, Any]) -> None:
    """Request an application; return before it runs."""
    from ray import cloudpickle, serve

    from runtimes.ray import replica
    from runtimes.ray.replica.replica import Replica

    # Replicas run in other environments and on other machines, so the code is sent by value.
    cloudpickle.register_pickle_by_value(replica)
    deployment = serve.deployment(Replica).options(**options)
    target = serve.RunTarget(
        target=deployment.bind(spec), name=name, route_prefix=f"/{name}", logging_config=LOGGING
    )
    serve.run_many([target], wait_for_applications_running=False)


_builds: dict[str, Any] = {}
"""Application → the task that builds and deploys it."""


def build(
    *,
    name: str,
    import_path: str,
    args: dict[str, Any],
    runtime_env: dict[str, Any],
    resources: dict[str, float],
) -> None:
    """Start the task that deploys a user's application: its code may take any time, or fail."""
    import ray
    from ray import cloudpickle

    from runtimes.ray import user_application

    cloudpickle.register_pickle_by_value(user_application)
    task = ray.remote(user_application.deploy).options(
        num_cpus=0, max_retries=0, runtime_env=runtime_env, resources=resources
    )
    _builds[name] = task.remote(name=name, import_path=import_path, args=args, logging=LOGGING)


def built(*, name: str) -> bool:
    """Return whether the task of `build` has ended; raises what it raised."""
    import ray

    done, _ = ray.wait([_builds[name]], timeout=0)
    if done:
        ray.get(_builds.pop(name))
    return bool(done)


def stop_building(*, name: str) -> None:
    """Kill the task of `build` if it still runs."""
    import ray

    if (task := _builds.pop(name, None)) is not None:
        ray.cancel(task, force=True)
        ray.wait([task], timeout=STOP_S)


def delete(*, name: str) -> None:
    """Request the deletion of an application; an unknown one is ignored."""
    from ray import serve

    serve.delete(name, _blocking=False)


def kill(*, name: str) -> None:
    """Kill the replicas of an application that is being deleted but does not end."""
    import ray
    from ray.util import list_named_actors

    # Serve does not list the replicas of an application that is being deleted.
    for actor in list_named_actors(all_namespaces=True):
        if actor["namespace"] == "serve" and actor["name"].startswith(f"SERVE_REPLICA::{name}#"):
            with contextlib.suppress(ValueError):  # it has exited in the meantime
                ray.kill(ray.get_actor(actor["name"], namespace="serve"), no_restart=True)


def status() -> dict[str, Any]:
    """Return applications with replicas, proxies and nodes, for `runtimes.ray.serve_status`."""
    import ray

    found = _client().get_serve_details()
    return {
        "applications": found["applications"],
        "proxies": [
            {"ip": proxy.get("node_ip") or "", "status": proxy["status"]}
            for proxy in found["proxies"].values()
        ],
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
    # The only private API of Ray in use: the public `serve.status()` has no process ids, and
    # nothing public tells the port.
    from ray.serve.context import _get_global_client

    return _get_global_client()


OPERATIONS: dict[str, Callable[..., Any]] = {
    "connect": connect,
    "deploy": deploy,
    "build": build,
    "built": built,
    "stop_building": stop_building,
    "delete": delete,
    "kill": kill,
    "status": status,
}


def main() -> None:
    """Serve requests until the input ends."""
    responses = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what Ray prints goes to the log, not between the responses
    for line in sys.stdin:
        request = json.loads(line)
        response: dict[str, Any] = {"id": request.pop("id")}
        try:
            response["result"] = OPERATIONS[request.pop("op")](**request)
        except Exception as exc:
            response |= {"error": str(exc) or type(exc).__name__, "type": type(exc).__name__}
        responses.write(json.dumps(response, default=str) + "\n")
        responses.flush()
    os._exit(0)  # Ray's own exit handlers may wait for a cluster that is gone


if __name__ == "__main__":
    main()
