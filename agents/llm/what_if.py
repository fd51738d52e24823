"""Trial plans: what the planner would do with a preference (pure)."""

from __future__ import annotations

from typing import Any

from agents.llm.choices import Planner
from modelium.models import Fleet, Load, LoadSettings, Model, Plan, Preference, RuntimeName, Unload
from modelium.models.advice import Advice
from modelium.policy import Policy
from modelium.ports import Question


class WhatIf:
    """Asks the planner how it would load one model."""

    def __init__(
        self, *, question: Question, fleet: Fleet, policy: Policy, planner: Planner, model: Model
    ) -> None:
        """Load ``model`` into ``fleet``."""
        self._question = question
        self._fleet = fleet
        self._policy = policy
        self._planner = planner
        self._model = model

    def load(self, preference: Preference) -> Load | None:
        """Return the load that follows ``preference``; ``None`` where there is none."""
        advice = Advice(preferences={self._model.name: preference})
        plan = self._planner(self._question, self._fleet, self._policy, advice)
        own = own_action(plan, self._model.name)
        return own if isinstance(own, Load) and follows(own, preference) else None

    def splits(self, degree: int) -> bool:
        """Whether vLLM could load the model on ``degree`` devices now."""
        settings = LoadSettings(tensor_parallel_size=degree)
        return self.load(Preference(runtime=RuntimeName.VLLM, settings=settings)) is not None


def emptied(fleet: Fleet, model: Model) -> Fleet:
    """Return ``fleet`` with ``model`` alone and all device memory free."""
    return Fleet(
        at=fleet.at,
        revision=fleet.revision,
        devices=tuple(
            d.model_copy(update={"free_bytes": d.total_bytes, "processes": ()})
            for d in fleet.devices
        ),
        models=(model,),
        runtimes=fleet.runtimes,
        nodes=fleet.nodes,
        files=fleet.files,
        used=fleet.used,
        class_failures=fleet.class_failures,
        departures=fleet.departures,
    )


def own_action(plan: Plan, model: str) -> Any:
    """Return the action of ``plan`` on ``model``; ``None`` where it has none."""
    return next((a for a in plan.actions if a.model == model), None)


def unloads(plan: Plan) -> set[str]:
    """Return the models that ``plan`` unloads."""
    return {a.model for a in plan.actions if isinstance(a, Unload)}


def follows(load: Load, preference: Preference) -> bool:
    """Whether ``load`` has the runtime and settings of ``preference``."""
    settings = preference.settings
    return (
        preference.runtime in (None, load.runtime)
        and settings.max_model_len in (None, load.settings.max_model_len)
        and settings.max_num_seqs in (None, load.settings.max_num_seqs)
        and settings.dtype in (None, load.settings.dtype)
        and settings.tensor_parallel_size in (1, load.settings.tensor_parallel_size)
    )
