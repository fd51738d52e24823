"""Models that are loaded on another node: its gateway is their upstream here (no I/O here)."""

from __future__ import annotations

from urllib.parse import urlsplit

from modelium.models import Deployment, Node, Upstream

PORTS = {"http": 80, "https": 443}


def upstream_of(deployment: Deployment, model: str, node: Node, secret: str) -> Upstream | None:
    """Return where requests for ``model`` are forwarded to, which ``node`` has loaded.

    It names the node's gateway, which resolves the model's own name.

    Args:
        deployment: of the model, on ``node``.
        model: its name for clients.
        node: the one that answers for the deployment.
        secret: by which ``node`` knows this one; it stays in memory.

    Returns:
        ``None``: the engine does not answer yet, or ``node`` has no `gateway.advertise`.
    """
    served, address = deployment.upstream, node.report.address
    if served is None or not address:
        return None
    parts = urlsplit(address)
    if parts.scheme not in PORTS or not parts.hostname:
        return None
    return Upstream(
        host=parts.hostname,
        port=parts.port or PORTS[parts.scheme],
        tls=parts.scheme == "https",
        prefix=parts.path.rstrip("/"),
        served_name=model,
        apis=served.apis,
        paths=served.paths,
        api_key=secret,
        peer=node.name,
    )
