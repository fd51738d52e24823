"""Rules that hold for more than one kind of action (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterator

from modelium.models import GIB, Fleet, Load, Model, Queue, RuntimeName
from modelium.models.teams import named
from modelium.policy.policy import Policy

Fault = tuple[str, str]
"""The rule that an action breaks, and a message: the fact, and what is allowed."""


def gib(size: float) -> str:
    """Return a size in bytes as messages show it."""
    return f"{size / GIB:.2f} GiB"


def switch_faults(policy: Policy) -> Iterator[Fault]:
    """Yield a fault while nothing may be loaded or unloaded."""
    if not policy.enabled:
        yield ("disabled", "orchestration.enabled is false: nothing is loaded or unloaded")


def runtime_faults(
    runtime: RuntimeName, fleet: Fleet, policy: Policy, *, node: str | None = None
) -> Iterator[Fault]:
    """Yield a fault where no plan may use ``runtime`` on ``node``; ``None``: on any."""
    if node is None:
        status = fleet.runtimes_by_name.get(runtime)
    else:
        status = fleet.runtime_on(runtime, node)
    if policy.rules(runtime).enabled and status is not None and status.enabled:
        return
    enabled = sorted(
        {
            r.name
            for r in fleet.runtimes
            if r.enabled and policy.rules(r.name).enabled and r.node in ("", node or r.node)
        }
    )
    where = f" on node {node}" if node is not None and fleet.nodes else ""
    yield (
        "unknown-runtime" if status is None else "runtime-disabled",
        f"{runtime} is not enabled{where}; enabled runtimes: {', '.join(enabled) or 'none'}",
    )


def priority_faults(action: Load | Queue, model: Model) -> Iterator[Fault]:
    """Yield a fault where ``action`` ranks the model above the operator's ceiling."""
    if action.priority.rank < model.priority_ceiling.rank:
        yield (
            "priority",
            f"priority {action.priority} is above its priority_ceiling {model.priority_ceiling} "
            f"({named(model.team)}), which only the operator can raise",
        )
