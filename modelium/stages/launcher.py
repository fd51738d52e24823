"""One typed method per stage, over a runner that executes and records stages."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from modelium.errors import ModeliumError
from modelium.models import Plan, Report, Trigger
from modelium.ports import Stage
from modelium.tasks import BackgroundTasks

logger = logging.getLogger(__name__)


class Runner(Protocol):
    """Runs one stage: inline, or as a recorded Prefect run."""

    async def run(self, stage: Stage, **parameters: Any) -> Report:
        """Run ``stage`` to its end; raises what the stage raises."""


@dataclass(frozen=True, slots=True)
class StageRun:
    """A stage with its parameters. It begins when it is awaited."""

    runner: Runner
    stage: Stage
    parameters: Mapping[str, Any]

    def __await__(self) -> Generator[Any, None, Report]:
        """Run the stage to its end."""
        return self.runner.run(self.stage, **self.parameters).__await__()

    def __str__(self) -> str:
        return name_of(self.stage, self.parameters)


def name_of(stage: Stage, parameters: Mapping[str, Any]) -> str:
    """What a run is called in lists and logs: ``load gpt2``, ``evict sweep``."""
    subject = parameters.get("model") or parameters.get("name")
    if not subject and parameters.get("path"):
        subject = str(parameters["path"]).rstrip("/").rpartition("/")[2]
    if not subject and parameters.get("models"):
        subject = ", ".join(parameters["models"])
    return f"{stage} {subject or 'sweep'}"


class StageLauncher:
    """`ports.Launcher` over a `Runner`."""

    def __init__(self, *, runner: Runner) -> None:
        """``runner`` runs and records the stages."""
        self._runner = runner
        self._background = BackgroundTasks()

    def ingest(
        self,
        *,
        path: str,
        name: str | None = None,
        team: str | None = None,
        priority_ceiling: str | None = None,
        intent: str | None = None,
        missing: str | None = None,
        bound: str | None = None,
    ) -> StageRun:
        """See `modelium.stages.ingest`."""
        parameters = {
            "path": path,
            "name": name,
            "team": team,
            "priority_ceiling": priority_ceiling,
            "intent": intent,
            **({"missing": missing} if missing else {}),
            **({"bound": bound} if bound else {}),
        }
        return StageRun(self._runner, "ingest", parameters)

    def analyze(self, *, model: str) -> StageRun:
        """See `modelium.stages.analyze`."""
        return StageRun(self._runner, "analyze", {"model": model})

    def decide(
        self,
        *,
        model: str | None = None,
        trigger: Trigger,
        plan: Plan | None = None,
        carry_out: bool = True,
    ) -> StageRun:
        """See `modelium.stages.decide`."""
        given: dict[str, Any] = {} if plan is None else {"plan": plan}
        given |= {} if carry_out else {"carry_out": False}
        handed = {"handed": True, **given} if given else {}
        parameters = {"model": model, "trigger": trigger.value, **handed}
        return StageRun(self._runner, "decide", parameters)

    def load(
        self, *, model: str, decision: str | None = None, trigger: Trigger = Trigger.OPERATOR
    ) -> StageRun:
        """See `modelium.stages.load`."""
        asked = {} if trigger is Trigger.OPERATOR else {"trigger": trigger.value}
        return StageRun(self._runner, "load", {"model": model, "decision": decision, **asked})

    def monitor(self) -> StageRun:
        """See `modelium.stages.monitor`."""
        return StageRun(self._runner, "monitor", {})

    def evict(
        self, *, models: Sequence[str] | None = None, decision: str | None = None, reason: str = ""
    ) -> StageRun:
        """See `modelium.stages.evict`."""
        names = None if models is None else list(models)
        parameters = {"models": names, "decision": decision, "reason": reason}
        return StageRun(self._runner, "evict", parameters)

    def start(self, run: Awaitable[Report]) -> None:
        """Await ``run`` in the background; its failure is logged."""
        self._background.start(_logged(run), name=str(run))

    async def aclose(self) -> None:
        """Cancel what `start` started, and wait until it has cleaned up."""
        await self._background.aclose()


async def _logged(run: Awaitable[Report]) -> None:
    """Await ``run``; log its failure, with a traceback only where it is a bug."""
    try:
        await run
    except ModeliumError as exc:
        logger.warning("%s failed: %s", run, exc)
    except Exception:
        logger.exception("%s failed", run)
