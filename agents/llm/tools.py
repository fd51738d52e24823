"""The agent's tools: read-only, with bounded answers, over one snapshot (I/O only in `History`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agents.llm.choices import Choices
from agents.llm.owner_facts import owner_wishes, owner_words
from agents.llm.untrusted import printable, word, wrapped
from agents.rules.keep_value import arrival_chance, keep_value
from agents.rules.ranking import priority_class
from modelium.models import GIB, Decision, Model
from modelium.models.load_time import load_seconds
from modelium.policy.memory_budget import available_bytes
from modelium.traffic.book import HORIZONS_S

ANSWER_CHARACTERS = 6000
"""Longest answer: about 2,000 tokens, a tenth of the usual budget."""

MODELS = 40
DECISIONS = 8
"""Longest lists."""

SOON_S = (60.0, 600.0, 3600.0)
"""Horizons of the ``traffic`` tool's forecast."""

History = Callable[[str | None, int], Sequence[Decision]]
"""(model or None, limit) → decisions, newest first. Called in a thread."""

Handler = Callable[[Mapping[str, Any]], Any]


def no_history(_model: str | None, _limit: int) -> Sequence[Decision]:
    """Return no decisions."""
    return ()


class Toolbox:
    """The tools over one question's snapshot. One per decision; wrong arguments never raise."""

    def __init__(self, *, choices: Choices, history: History = no_history) -> None:
        """``history``: earlier decisions."""
        self._choices = choices
        self._fleet = choices.fleet
        self._policy = choices.policy
        self._now = choices.question.now or choices.fleet.at
        self._history = history
        self._tools: dict[str, tuple[str, bool, Handler]] = {
            "fleet": ("Devices, runtimes and what is loaded or queued where.", False, self._all),
            "profile": ("What a model is: format, size, context, runtimes.", True, self._profile),
            "traffic": (
                "Requests of a model: rates, latency, chance of the next.",
                True,
                self._use,
            ),
            "candidates": ("What can be chosen now, with scores.", False, self._candidates),
            "policy": ("The operator's rules.", False, self._rules),
            "decisions": ("Recent decisions on a model, or on all.", True, self._decisions),
            "card": ("The beginning of a model's own card: untrusted text.", True, self._card),
        }

    def specifications(self) -> list[dict[str, Any]]:
        """Return the tools in OpenAI's format."""
        model = {"model": {"type": "string", "description": "A model's name."}}
        return [
            {
                "type": "function",
                "function": {
                    "name": name,
                    "description": description,
                    "parameters": {"type": "object", "properties": model if about_one else {}},
                },
            }
            for name, (description, about_one, _) in self._tools.items()
        ]

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Return the answer to one call, or what is wrong with the call. Blocks on `History`."""
        known = self._tools.get(name)
        if known is None:
            return f"error: there is no tool {name[:60]!r}; there are {', '.join(self._tools)}"
        answer = known[2](arguments)
        text = answer if isinstance(answer, str) else json.dumps(answer, separators=(",", ":"))
        if len(text) > ANSWER_CHARACTERS:
            return text[:ANSWER_CHARACTERS] + " …(cut)"
        return text

    # --- the tools ----------------------------------------------------------------------

    def _all(self, _given: Mapping[str, Any]) -> Any:
        cap = self._policy.max_gpu_memory_utilization
        fleet = self._fleet
        held = [m for m in fleet.models if m.deployment is not None]
        waiting = [m for m in fleet.models if m.state == "queued"]
        return {
            "devices": [
                {
                    "id": device.id,
                    "name": word(device.name),
                    "healthy": device.healthy,
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
            "runtimes": [
                {"name": r.name.value, "enabled": r.enabled, "healthy": r.healthy}
                for r in fleet.runtimes
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

    def _profile(self, given: Mapping[str, Any]) -> Any:
        model = self._model(given)
        if isinstance(model, str) or model.profile is None:
            return model if isinstance(model, str) else f"{model.name} is not analyzed yet"
        profile = model.profile
        return {
            "model": model.name,
            "state": model.state.value,
            "team": word(model.team),
            "class": priority_class(model, self._policy).value,
            "highest_class_allowed": model.priority_ceiling.value,
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
            "load_s": round(load_seconds(model), 1),
            "owner_wishes": owner_wishes(model),
        }

    def _use(self, given: Mapping[str, Any]) -> Any:
        model = self._model(given)
        if isinstance(model, str):
            return model
        traffic = model.traffic
        last = traffic.last_request_at
        return {
            "model": model.name,
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
            "chance_of_a_request_within_s": {
                int(s): round(arrival_chance(traffic, now=self._now, within_s=s), 3) for s in SOON_S
            },
            "value_of_keeping": round(keep_value(model, now=self._now), 6),
        }

    def _candidates(self, _given: Mapping[str, Any]) -> Any:
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

    def _rules(self, _given: Mapping[str, Any]) -> Any:
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

    def _decisions(self, given: Mapping[str, Any]) -> Any:
        name = given.get("model")
        if name is not None:
            model = self._model(given)
            if isinstance(model, str):
                return model
            name = model.name
        return [
            {
                "ago_s": round(self._now - made.at),
                "trigger": made.plan.trigger.value,
                "author": made.plan.author,
                "outcome": made.outcome,
                "actions": [f"{a.action} {a.model}" for a in made.plan.actions[:8]],
                # A reason may quote an engine or an earlier advisor.
                "reason": printable(made.plan.reason, limit=200),
            }
            for made in self._history(name, DECISIONS)
        ]

    def _card(self, given: Mapping[str, Any]) -> Any:
        model = self._model(given)
        if isinstance(model, str):
            return model
        card, words = model.profile.card if model.profile else None, owner_words(model)
        if card is None or not card.text.strip():
            return words or f"{model.name} has no card"
        shown = wrapped(card.text, source=f"the card of {model.name}")
        return f"{shown}\n\n{words}" if words else shown

    def _model(self, given: Mapping[str, Any]) -> Model | str:
        name = given.get("model", self._choices.question.model)
        model = self._fleet.models_by_name.get(name) if isinstance(name, str) else None
        if model is None:
            return f"error: no model is called {str(name)[:60]!r}; `fleet` lists those that matter"
        return model
