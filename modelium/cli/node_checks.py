"""Checks of a machine among those that share its store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import httpx

from modelium import __version__
from modelium.cli.findings import Finding
from modelium.config import Config
from modelium.control.membership import FILE
from modelium.errors import ModeliumError
from modelium.gateway.certificates import trust_of
from modelium.models import Node
from modelium.store import Store
from modelium.store.connection import connect, has_tables, is_shared
from modelium.store.nodes import digest
from modelium.store.store import ignore

PROBE_S = 10.0
"""Timeout of one request to another machine's gateway."""

CLOCK_OFF_S = 2.0
"""An offset of this machine's clock from the database's that is too much."""


def machines(config: Config) -> Iterator[Finding]:
    """Check the store, this machine's place in it, and the way to the others; changes nothing.

    With SQLite there is one machine, and nothing to check.
    """
    url = config.store_url()
    if not is_shared(url):
        return
    try:
        engine = connect(url)
        store = Store(engine=engine, now=time.time, on_event=ignore)
        try:
            if not has_tables(engine):
                detail = "none has joined; the first one makes the store's tables"
                yield Finding(what="machines", ok=True, detail=detail)
                return
            ahead = time.time() - store.time()
            nodes, identities = store.nodes.all(), store.nodes.identities()
        finally:
            store.close()
    except ModeliumError as exc:
        yield Finding(what="machines", ok=False, detail=f"the store cannot be read: {exc}")
        return
    yield _joined(config, nodes, identities.get(_identity(config)))
    yield _clock(ahead)
    others = [node for node in nodes if node.name != config.orchestration.node]
    yield from _versions(others)
    yield from (_reached(config, node) for node in others if not node.silent)


def _identity(config: Config) -> str:
    """Return what the store knows this machine by; empty: it has never been started."""
    file = config.orchestration.state / FILE
    try:
        return digest(file.read_text().strip())
    except FileNotFoundError:
        return ""
    except OSError as exc:
        raise ModeliumError(f"{file} cannot be read ({exc.strerror})") from exc


def _joined(config: Config, nodes: Iterable[Node], known_as: str | None) -> Finding:
    name, what = config.orchestration.node, "machines"
    names = [node.name for node in nodes]
    if known_as == name:
        return Finding(what=what, ok=True, detail=f"this one is {name}, of {', '.join(names)}")
    if known_as is not None:
        detail = f"orchestration.node: {name}, but this machine joined as {known_as}; set that"
        return Finding(what=what, ok=False, detail=detail)
    if not names:
        return Finding(what=what, ok=True, detail="none has joined; this will be the first")
    if config.orchestration.join_token is not None:
        detail = f"{name} has not joined yet; it does with the next `modelium up`"
        return Finding(what=what, ok=True, detail=detail)
    detail = f"{name} has not joined; set orchestration.join_token, from `modelium nodes token`"
    return Finding(what=what, ok=False, detail=detail)


def _clock(ahead_s: float) -> Finding:
    """Check the clock; Modelium goes by the database's, logs and other programs by this one."""
    if abs(ahead_s) <= CLOCK_OFF_S:
        return Finding(what="clock", ok=True, detail="agrees with the database's")
    side = "ahead of" if ahead_s > 0 else "behind"
    detail = f"{abs(ahead_s):.0f} s {side} the database's; set it, e.g. with chrony"
    return Finding(what="clock", ok=False, detail=detail)


def _versions(others: Iterable[Node]) -> Iterator[Finding]:
    differing = [n for n in others if n.report.version not in ("", __version__)]
    if differing:
        found = ", ".join(f"{node.name} runs {node.report.version}" for node in differing)
        detail = f"{found}, this machine {__version__}: bring all to one version"
        yield Finding(what="versions", ok=False, detail=detail)


def _reached(config: Config, node: Node) -> Finding:
    """Check that requests can be forwarded to ``node``."""
    what, address = f"machine {node.name}", node.report.address
    if address is None:
        detail = "has no gateway.advertise: its models answer on its own gateway alone"
        return Finding(what=what, ok=False, detail=detail)
    address = address.rstrip("/")
    try:
        checked = trust_of(config.gateway)()
        answer = httpx.get(f"{address}/healthz", timeout=PROBE_S, trust_env=False, verify=checked)
    except (httpx.HTTPError, ModeliumError) as exc:
        detail = f"no answer at {address} (its gateway.advertise): {exc or type(exc).__name__}"
        return Finding(what=what, ok=False, detail=detail)
    if answer.is_success:
        return Finding(what=what, ok=True, detail=f"answers at {address}")
    detail = f"{address} is no gateway of Modelium (status {answer.status_code})"
    return Finding(what=what, ok=False, detail=detail)
