"""What the agent's tools look up in one snapshot: JSON values, with bounds (I/O in `History`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from agents.llm.choices import Choices
from agents.llm.facts import local_time, node_facts
from agents.llm.owner_facts import owner_wishes, owner_words
from agents.llm.untrusted import word, wrapped
from agents.rules.keep_value import arrival_chance, keep_value
from agents.rules.ranking import priority_class
from modelium.models import GIB, Decision, Model
from modelium.models.load_time import load_seconds
from modelium.policy.departures import was_wrong
from modelium.policy.memory_budget import available_bytes
from modelium.traffic.tally import HORIZONS_S

MODELS = 40
NODES = 32
DECISIONS = 8
DEPARTURES = 20
"""Longest lists."""

REASON_CHARACTERS = 200
"""Longest part of an earlier reason."""

SOON_S = (60.0, 600.0, 3600.0)
"""Horizons of the ``traffic`` tool's forecast."""

History = Callable[[str | None, int], Sequence[Decision]]
"""(model or None, limit) → decisions, newest first. Called in a thread."""


def no_history(_model: str | None, _limit: int) -> Sequence[Decision]:
    """Return no decisions."""
    return ()


class Lookups:
    """One method per tool; an unknown model is answered with a sentence, never raised."""

    def __init__(self, *, choices: Choices, history: History = no_history) -> None:
        """``history``: earlier decisions."""
        self._choices = choices
        self._fleet = choices.fleet
        self._policy = choices.policy
        self._now = choices.question.now or choices.fleet.at
        self._history = history

    def fleet(self) -> Any:
        """Return the devices, the runtimes, and what is loaded or queued where."""
        cap = self._policy.max_gpu_memory_utilization
        fleet = self._fleet
        held = [m for m in fleet.models if m.deployment is not None]
        waiting = [m for m in fleet.models if m.state == "queued"]
        return {
            "time": local_time(self._now, self._policy),
            "devices": [
                {
                    "id": device.id,
                    "name": word(device.name),
                    "healthy": device.healthy,
                    **({} if device.utilization is None else {"utilization": device.utilization}),
                    "total_gib": round(device.total_bytes / GIB, 1),
                    "free_gib": round(device.free_bytes / GIB, 1),
                    "can_be_booked_gib": round(
                        available_bytes(
                            device, fleet.bookings_by_device.get(device.id, ()), cap=cap
                        )
                        / GIB,
                        1,
                    ),
                }
                for device in fleet.devices[:MODELS]
            ],
            **({"nodes": list(map(node_facts, fleet.nodes[:NODES]))} if fleet.nodes else {}),
            "runtimes": [
                {
                    "name": r.name.value,
                    **({"node": word(r.node)} if fleet.nodes else {}),
                    "enabled": r.enabled,
                    "healthy": r.healthy,
                }
                for r in fleet.runtimes[:MODELS]
            ],
            "loaded": [
                {
                    "model": m.name,
                    "state": m.state.value,
                    "devices": list(m.deployment.devices) if m.deployment else [],
                    "idle_s": round(m.idle_s(self._now)),
                    "qps": round(m.traffic.qps, 3),
                    "pinned": m.pinned or m.name in self._policy.always_loaded,
                }
                for m in held[:MODELS]
            ],
            "queued": [m.name for m in waiting[:MODELS]],
            "models": len(fleet.models),
        }

    def profile(self, model: str = "") -> Any:
        """Return what a model is: format, size, context, runtimes."""
        found = self._model(model)
        if isinstance(found, str) or found.profile is None:
            return found if isinstance(found, str) else f"{found.name} is not analyzed yet"
        profile = found.profile
        return {
            "model": found.name,
            "state": found.state.value,
            "team": word(found.team),
            "class": priority_class(found, self._policy).value,
            "highest_class_allowed": found.priority_ceiling.value,
            "format": profile.format.value,
            "architecture": word(profile.architecture),
            "task": profile.task.value,
            "parameters": profile.parameter_count,
            "weights_gib": round(profile.weight_bytes / GIB, 2),
            "dtype": word(profile.dtype),
            "quantization": word(profile.quantization),
            "context_length": profile.context_length,
            "tensor_parallel_degrees": list(profile.tensor_parallel_degrees),
            "licence": word(profile.license),
            "base_model": word(profile.base_model),
            "runtimes": {
                s.runtime.value: "able" if s.supported else word(s.reason) or "no"
                for s in profile.runtimes
            },
            "load_s": round(load_seconds(found), 1),
            "owner_wishes": owner_wishes(found),
        }

    def traffic(self, model: str = "") -> Any:
        """Return the requests to a model: rates, latency, chance of the next."""
        found = self._model(model)
        if isinstance(found, str):
            return found
        traffic = found.traffic
        last = traffic.last_request_at
        return {
            "model": found.name,
            "in_flight": traffic.in_flight,
            "waiting": traffic.pending,
            "completed": traffic.completed,
            "failed": traffic.failed,
            "since_last_request_s": None if last is None else round(self._now - last),
            "per_second_by_horizon_s": dict(
                zip(map(int, HORIZONS_S), (round(r, 5) for r in traffic.rates), strict=False)
            ),
            "per_hour_of_the_last_day": list(traffic.hours),
            "latency_p50_s": traffic.latency_p50_s,
            "latency_p99_s": traffic.latency_p99_s,
            "queue_s": traffic.queue_s,
            "most_at_once": round(traffic.concurrency, 1),
            "tokens_per_s": round(traffic.generated_tokens_per_s, 1),
            "gpu_utilization": traffic.gpu_utilization,
            "chance_of_a_request_within_s": {
                int(s): round(arrival_chance(traffic, now=self._now, within_s=s), 3) for s in SOON_S
            },
            "value_of_keeping": round(keep_value(found, now=self._now), 6),
        }

    def candidates(self) -> Any:
        """Return what can be chosen now, with the costs and the scores of the rules."""
        return {
            **self._choices.facts(),
            "allowed": {f.name: list(f.allowed) for f in self._choices.fields},
            "weighed_by_the_rules": [
                {
                    "runtime": c.runtime,
                    "devices": list(c.devices)[:4],
                    "evicts": list(c.evicts)[:4],
                    "score": c.score,
                    "lost": c.lost,
                }
                for c in self._choices.rules.candidates[:MODELS]
            ],
        }

    def policy(self) -> Any:
        """Return the rules of the operator."""
        policy = self._policy
        return {
            "auto_unload_after_s": policy.auto_unload_after_s,
            "min_qps_threshold": policy.min_qps_threshold,
            "max_gpu_memory_utilization": policy.max_gpu_memory_utilization,
            "enable_model_swapping": policy.enable_model_swapping,
            "high_priority_teams": sorted(policy.high_priority_teams),
            "always_loaded": sorted(policy.always_loaded)[:MODELS],
            "default_settings": {
                name.value: rules.default_settings
                for name, rules in policy.runtimes.items()
                if rules.enabled
            },
        }

    def decisions(self, model: str = "") -> Any:
        """Return recent decisions on a model; without one, on all."""
        name = None
        if model:
            found = self._model(model)
            if isinstance(found, str):
                return found
            name = found.name
        return [
            {
                "ago_s": round(self._now - made.at),
                "trigger": made.plan.trigger.value,
                "author": made.plan.author,
                "outcome": made.outcome,
                "actions": [f"{a.action} {a.model}" for a in made.plan.actions[:8]],
                "reason": _reason(made),
            }
            for made in self._history(name, DECISIONS)
        ]

    def card(self, model: str = "") -> Any:
        """Return the beginning of a model's own card, as untrusted text."""
        found = self._model(model)
        if isinstance(found, str):
            return found
        card, words = found.profile.card if found.profile else None, owner_words(found)
        if card is None or not card.text.strip():
            return words or f"{found.name} has no card"
        shown = wrapped(card.text, source=f"the card of {found.name}")
        return f"{shown}\n\n{words}" if words else shown

    def departures(self) -> Any:
        """Return the latest departures from the rules, and what came of them."""
        came_of_it = {True: "wrong", False: "right", None: "not known"}
        return [
            {
                "ago_s": round(self._now - one.at),
                "kind": one.kind.value,
                "model": one.model,
                "load_seconds": round(one.price_s),
                "carried_out": not one.shadow,
                "outcome": came_of_it[was_wrong(one)],
            }
            for one in self._fleet.departures[:DEPARTURES]
        ]

    def _model(self, name: str) -> Model | str:
        name = name or self._choices.question.model or ""
        found = self._fleet.models_by_name.get(name)
        if found is None:
            return f"error: no model is called {name[:60]!r}; `fleet` lists those that matter"
        return found


def _reason(made: Decision) -> str:
    """Return why ``made`` was made, as untrusted text: it may quote an engine, or an LLM a card."""
    if not made.plan.reason:
        return ""
    return wrapped(made.plan.reason, source="an earlier decision", limit=REASON_CHARACTERS)
