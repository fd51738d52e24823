"""The brain that the configuration asks for."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

from agents.rules.planner import RulePlanner
from modelium.app.late import LateBrain
from modelium.config import Config
from modelium.gateway.proxy.names import Names
from modelium.models.outcomes import Outcome
from modelium.ports import Brain, Clock
from modelium.store import Store

logger = logging.getLogger(__name__)


def build_brain(
    config: Config, clock: Clock, store: Store, environ: Mapping[str, str], rules: RulePlanner
) -> Brain:
    """Return the rules, with an LLM where one is configured; its client is slow to import."""
    wanted = config.brain
    if wanted.base_url is None or wanted.model is None:
        if wanted.base_url is not None:
            logger.warning("brain.base_url is set but brain.model is not: the rules decide alone")
        return rules
    key = environ.get(wanted.api_key_env)
    here = config.brain_served_here
    if not key and here and config.gateway.token is not None:
        key = config.gateway.token.get_secret_value()
    base_url, model = wanted.base_url, wanted.model

    def outcomes(names: Collection[str], limit: int) -> Sequence[Outcome]:
        return store.outcomes.of_models(names, limit=limit)

    def build() -> Brain:
        from agents.brain import AdvisedBrain
        from agents.llm.agent import Agent, Budget
        from agents.llm.endpoint import Endpoint
        from agents.llm.evidence import evidence_tools

        return AdvisedBrain(
            rules=rules,
            agent=Agent(
                endpoint=Endpoint(
                    base_url=base_url,
                    model=model,
                    api_key=key,
                    allowed_link_local=config.orchestration.allowed_link_local,
                ),
                clock=clock,
                budget=Budget(
                    seconds=wanted.time_budget_seconds,
                    rounds=wanted.max_steps,
                    tokens=wanted.max_tokens,
                ),
            ),
            clock=clock,
            served_as=Names(aliases=config.gateway.aliases).resolve(model).model if here else None,
            history=lambda model, limit: store.decisions.newest(model=model, limit=limit),
            tools=[
                evidence_tools(lambda names, limit: store.outcomes.of_models(names, limit=limit))
            ],
        )

    return LateBrain(build=build)
