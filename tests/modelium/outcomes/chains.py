"""Decisions and events of a few models, as the store has them."""

from __future__ import annotations

from typing import Any

from modelium.models import Event, RuntimeName, Trigger
from modelium.models.outcomes import Outcome
from modelium.outcomes.derivation import Step, outcomes

NOW = 10_000.0


class Chain:
    """What happened, in order; each call names its instant in seconds."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.events: list[Event] = []
        self.requests: list[tuple[str, float]] = []

    def load(self, at: float, model: str = "a", **given: Any) -> Chain:
        return self._step(at, model, "load", **{"runtime": RuntimeName.VLLM, **given})

    def unload(self, at: float, model: str = "a", **given: Any) -> Chain:
        return self._step(at, model, "unload", **{"cause": "space", **given})

    def queue(self, at: float, model: str = "a", **given: Any) -> Chain:
        return self._step(at, model, "queue", **given)

    def told(self, at: float, event: str, model: str = "a", /, **detail: Any) -> Chain:
        self.events.append(Event(at=at, kind=f"model.{event}", model=model, detail=detail))
        return self

    def loaded(self, at: float, ready_at: float, model: str = "a", **given: Any) -> Chain:
        """A load that took until ``ready_at``."""
        return self.load(at, model, **given).told(ready_at, "ready", model, load_s=ready_at - at)

    def unloaded(self, at: float, model: str = "a", **given: Any) -> Chain:
        """An unload that took a second."""
        return self.unload(at, model, **given).told(at + 1, "evicted", model)

    def asked(self, *at: float, model: str = "a") -> Chain:
        self.requests += [(model, each) for each in at]
        return self

    def found(self, now: float = NOW) -> list[Outcome]:
        def first(model: str, since: float, until: float) -> float | None:
            seen = [at for name, at in self.requests if name == model and since <= at < until]
            return min(seen, default=None)

        return outcomes(self.steps, self.events, first_request=first, now=now)

    def fields(self, index: int, *names: str) -> tuple[Any, ...]:
        """Return these fields of one outcome."""
        return tuple(getattr(self.found()[index], name) for name in names)

    def _step(self, at: float, model: str, action: Any, **given: Any) -> Chain:
        fields = {
            "decision": f"d{len(self.steps)}",
            "author": "rules",
            "trigger": Trigger.SWEEP,
            "fallback": False,
            **given,
        }
        self.steps.append(Step(at=at, model=model, action=action, **fields))
        return self
