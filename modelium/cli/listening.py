"""Checks whether the service runs, and whether its ports are free for it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx

from modelium.cli.client import trust
from modelium.cli.findings import Finding
from modelium.config import Config
from modelium.config.fields import FieldPath
from modelium.config.hosts import bind
from modelium.control import addresses, service_lock
from modelium.errors import ConfigError

PROBE_S = 10.0
"""Timeout of one request to the running service."""


def service(config: Config) -> Iterator[Finding]:
    """Check the running service, or that one could listen on its ports."""
    state = config.orchestration.state
    if not service_lock.is_held(state):
        yield Finding(what="service", ok=True, detail="not running; `modelium up` starts it")
        yield from (_free(path, host, port) for path, host, port in _ports(config))
        return
    gateway = addresses.read(state).get("gateway")
    if gateway is None:
        yield Finding(what="service", ok=True, detail=f"is starting on {state}")
        return
    try:
        checked = trust(gateway, config.gateway, own=True)
        httpx.get(f"{gateway}/healthz", timeout=PROBE_S, trust_env=False, verify=checked)
    except (httpx.HTTPError, ConfigError) as exc:
        detail = f"runs on {state}, but its gateway at {gateway} does not answer: {exc}"
        yield Finding(what="service", ok=False, detail=detail)
    else:
        yield Finding(what="service", ok=True, detail=f"runs, and answers at {gateway}")


def _ports(config: Config) -> Iterator[tuple[FieldPath, str, int]]:
    """Yield the ports of the service itself; engines that serve on may hold theirs."""
    gateway, prefect, metrics = config.gateway, config.prefect, config.orchestration.metrics
    yield ("gateway", "port"), gateway.host, gateway.port
    if metrics.prometheus_enabled:
        path = ("orchestration", "metrics", "prometheus_port")
        yield path, gateway.host, metrics.prometheus_port
    if prefect.enabled and prefect.api_url is None:
        yield ("prefect", "port"), prefect.host, prefect.port


def _free(path: FieldPath, host: str, port: int) -> Finding:
    field = ".".join(path)
    try:
        with bind(host, port) as bound:
            # Some systems let two sockets bind a port, but only one listen on it.
            bound.listen(1)
    except OSError as exc:
        detail = f"{field}: {exc.strerror} ({host}); set another port, or 0 for any free one"
        return Finding(what=f"port {port}", ok=False, detail=detail)
    return Finding(what=f"port {port}", ok=True, detail=f"free, for {field}")
