"""What a plan makes of a wish: asking the planner, and reading its answer (pure)."""

from __future__ import annotations

from typing import Any

from agents.llm.choices import Planner
from modelium.models import Fleet, Load, LoadSettings, Model, Plan, Preference, RuntimeName, Unload
from modelium.models.advice import Advice
from modelium.policy import Policy
from modelium.ports import Question


class WhatIf:
    """Asks the planner what a wish would come to."""

    def __init__(
        self, *, question: Question, fleet: Fleet, policy: Policy, planner: Planner, model: Model
    ) -> None:
        """Of loading ``model`` into ``fleet``."""
        self._question = question
        self._fleet = fleet
        self._policy = policy
        self._planner = planner
        self._model = model

    def load(self, wish: Preference) -> Load | None:
        """The load that does what ``wish`` says; ``None`` where that is not possible."""
        advice = Advice(preferences={self._model.name: wish})
        plan = self._planner(self._question, self._fleet, self._policy, advice)
        own = own_action(plan, self._model.name)
        return own if isinstance(own, Load) and honours(own, wish) else None

    def splits(self, degree: int) -> bool:
        """Whether the model can be split over ``degree`` devices now."""
        wish = LoadSettings(tensor_parallel_size=degree)
        return self.load(Preference(runtime=RuntimeName.VLLM, settings=wish)) is not None


def emptied(fleet: Fleet, model: Model) -> Fleet:
    """``fleet`` as it were with ``model`` alone: what it may prefer once it has a place."""
    return Fleet(
        at=fleet.at,
        revision=fleet.revision,
        devices=tuple(
            d.model_copy(update={"free_bytes": d.total_bytes, "processes": ()})
            for d in fleet.devices
        ),
        models=(model,),
        runtimes=fleet.runtimes,
    )


def own_action(plan: Plan, model: str) -> Any:
    """The action of ``plan`` on ``model``, if it has one."""
    return next((a for a in plan.actions if a.model == model), None)


def unloads(plan: Plan) -> set[str]:
    """The models that ``plan`` takes out."""
    return {a.model for a in plan.actions if isinstance(a, Unload)}


def honours(load: Load, wish: Preference) -> bool:
    """Whether ``load`` does what ``wish`` says."""
    settings = wish.settings
    return (
        wish.runtime in (None, load.runtime)
        and settings.max_model_len in (None, load.settings.max_model_len)
        and settings.max_num_seqs in (None, load.settings.max_num_seqs)
        and settings.dtype in (None, load.settings.dtype)
        and settings.tensor_parallel_size in (1, load.settings.tensor_parallel_size)
    )
