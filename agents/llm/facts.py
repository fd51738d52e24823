"""What an LLM is told of a model, wherever it is told of one (pure).

`MODEL_FACTS` is the list to extend: each function takes a model, the policy and the time, and
returns JSON values. Text that came from a model folder goes through `agents.llm.untrusted`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from agents.llm.untrusted import word
from agents.rules.keep_value import arrival_chance
from agents.rules.ranking import priority_class
from modelium.models import Load, Model, Node
from modelium.models.load_time import load_seconds
from modelium.policy import Policy
from modelium.policy.node_rules import closed

SOON_S = 600.0
"""Horizon of the forecast shown: longer than a load, shorter than the idle timeout."""

LABELS = 8
"""Labels shown of a node."""

ModelFact = Callable[[Model, Policy, float], dict[str, Any]]
"""(model, policy, seconds since the epoch) → facts as JSON values."""


def standing(model: Model, policy: Policy, _now: float) -> dict[str, Any]:
    """Return who owns ``model`` and which class it has."""
    return {
        "team": word(model.team),
        "class": priority_class(model, policy).value,
    }


def demand(model: Model, _policy: Policy, now: float) -> dict[str, Any]:
    """Return how much ``model`` is used, how fast it answers, and what loading it costs."""
    traffic = model.traffic
    found = {
        "load_s": round(load_seconds(model)),
        "requests": traffic.completed,
        "requests_per_hour": round(traffic.qps_last_hour * 3600, 1),
        "chance_of_a_request_soon": round(arrival_chance(traffic, now=now, within_s=SOON_S), 2),
    }
    if traffic.latency_p50_s is not None:
        found["latency_p50_s"] = round(traffic.latency_p50_s, 3)
    if traffic.queue_s is not None:
        found["queue_s"] = round(traffic.queue_s, 3)
    if traffic.gpu_utilization is not None:
        found["gpu_utilization"] = round(traffic.gpu_utilization, 2)
    if traffic.last_request_at is not None:
        found["last_request_ago_s"] = round(max(0.0, now - traffic.last_request_at))
    if traffic.pending:
        found["requests_waiting"] = traffic.pending
    if model.failures:
        found["failed_loads"] = model.failures
    return found


MODEL_FACTS: tuple[ModelFact, ...] = (standing, demand)
"""In the order in which they are shown."""


def model_facts(model: Model, policy: Policy, now: float) -> dict[str, Any]:
    """Return all that is told of ``model`` in a list of models."""
    found: dict[str, Any] = {}
    for fact in MODEL_FACTS:
        found |= fact(model, policy, now)
    return found


def node_facts(node: Node) -> dict[str, Any]:
    """Return what is told of a machine: whether models may be loaded there, else why not."""
    fault = closed(node)
    labels = sorted(node.report.labels.items())[:LABELS]
    return {
        "node": word(node.name),
        "takes_models": fault is None,
        **({} if fault is None else {"why_not": fault[0]}),
        "labels": {str(word(key)): word(value) for key, value in labels},
        "fetches_files": node.report.fetches,
    }


def action_facts(action: Any) -> dict[str, Any]:
    """Return what is told of what the rules would do with a model."""
    if isinstance(action, Load):
        settings = action.settings.model_dump(
            include={"max_model_len", "max_num_seqs", "dtype", "tensor_parallel_size"},
            exclude_none=True,
        )
        return {
            "action": "load",
            "runtime": action.runtime.value,
            "priority": action.priority.value,
            **settings,
        }
    return {"action": action.action}


def local_time(at: float, policy: Policy) -> str:
    """Return ``at`` (epoch) as weekday, time and zone of the operator."""
    zone: tzinfo
    try:
        zone = ZoneInfo(policy.time_zone)
    except (ZoneInfoNotFoundError, ValueError):
        zone = UTC
    return datetime.fromtimestamp(at, zone).strftime("%A %H:%M %Z")
