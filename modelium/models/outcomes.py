"""What came of decisions, and the classes of models that it is counted by (no I/O here)."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from modelium.models.base import Frozen, RuntimeName
from modelium.models.decisions import Trigger
from modelium.models.profile import ModelFormat, ModelProfile

SOON_S = 600.0
"""An action that is undone within this time is a reversal, and a model without a request for as
long after its load was not asked: loads take up to minutes, and a residency pays off after."""

AT_ONCE_S = 60.0
"""A request within this time after an action came at once."""


class ModelClass(Frozen):
    """Models that a runtime loads with the same code."""

    format: ModelFormat
    architecture: str
    """Of the files: untrusted text."""
    quantization: str | None = None

    @classmethod
    def of(cls, profile: ModelProfile) -> ModelClass:
        """Return the class of the model that ``profile`` describes."""
        return cls(
            format=profile.format,
            architecture=profile.architecture,
            quantization=profile.quantization,
        )


class ClassFailures(Frozen):
    """The last loads of one class in one runtime, where they failed by the runtime's fault."""

    model_class: ModelClass
    runtime: RuntimeName
    failures: int
    """In a row, without a successful load since."""
    models: tuple[str, ...]
    """Which failed, in order of their names."""
    teams: dict[str, str] = Field(default_factory=dict)
    """Model → its team; empty for one without."""
    last_at: float
    """When the last one failed."""


class Result(StrEnum):
    """How far an action came."""

    PENDING = "pending"
    """Not at its end yet, or not known."""
    READY = "ready"
    FAILED = "failed"
    """The load failed."""
    LOST = "lost"
    """The engine ended so soon after it was ready that this counts as a failed load."""
    WITHDRAWN = "withdrawn"
    """The load did not take place, or was aborted: no fault of the model or its runtime."""
    UNLOADED = "unloaded"
    STAYED = "stayed"
    """The unload was given up: requests were in flight."""
    QUEUED = "queued"


class Outcome(Frozen):
    """One action of a decision, and what came of it."""

    decision: str
    """Id."""
    at: float
    """When it was decided."""
    author: str
    trigger: Trigger
    fallback: bool = False
    """Whether an LLM was asked and the rules decided."""
    model: str
    action: Literal["load", "unload", "queue"]
    runtime: RuntimeName | None = None
    """Of a load."""
    result: Result = Result.PENDING
    kind: str = ""
    """Of a failed or lost load: a `FailureKind`, or ``passing``."""
    detail: str = ""
    """Why it failed or was withdrawn; an engine may have written it: untrusted text."""
    load_s: float | None = None
    """Seconds until the load was ready, or had failed."""
    held_s: float | None = None
    """Seconds from ready until it was unloaded or lost; ``None``: it is still loaded."""
    asked_after_s: float | None = None
    """Seconds from the end of the action to the first request; 0: requests were waiting for the
    load; ``None``: none has come (while it was loaded, for a load)."""
    quiet_s: float | None = None
    """Seconds without a request since the end of the action, where none has come."""
    cold_start_of: str = ""
    """Requests waited for this load: id of the decision that had left the model unloaded."""
    again_after_s: float | None = None
    """Of an unload or a queued model: seconds until its next load was decided."""
    reversed: bool = False
    """Undone within `SOON_S`: a loaded model was unloaded, an unloaded one loaded again. A newer
    version that replaces it undoes nothing."""

    @property
    def never_asked(self) -> bool:
        """Whether a loaded model had no request until it was unloaded, or for `SOON_S`."""
        quiet = self.held_s is not None or (self.quiet_s or 0.0) >= SOON_S
        return self.result is Result.READY and self.asked_after_s is None and quiet

    @property
    def failed(self) -> bool:
        """Whether the load failed, or its engine was lost soon."""
        return self.result in (Result.FAILED, Result.LOST)

    @property
    def summary(self) -> str:
        """What came of it, in a few words, without untrusted text."""
        match self.action:
            case "load":
                parts = [self._loaded(), self._asked()]
                if self.held_s is not None and self.result is Result.READY:
                    parts.append(f"unloaded after {self.held_s:.0f} s")
            case "unload":
                parts = [self.result.value, self._asked(), self._again()]
            case _:
                parts = ["queued", self._asked(), self._again()]
        return "; ".join(part for part in parts if part)

    def _loaded(self) -> str:
        seconds = f" after {self.load_s:.1f} s" if self.load_s is not None else ""
        match self.result:
            case Result.FAILED:
                return f"failed{seconds}" + (f" ({self.kind})" if self.kind else "")
            case Result.LOST:
                return f"ready{seconds}, lost {self.held_s or 0:.0f} s later"
            case _:
                return f"{self.result.value}{seconds}"

    def _asked(self) -> str:
        if self.cold_start_of:
            return "requests were waiting"
        if self.asked_after_s is not None:
            return f"first request {self.asked_after_s:.0f} s later"
        return f"no request in {self.quiet_s:.0f} s" if self.quiet_s is not None else ""

    def _again(self) -> str:
        if self.again_after_s is None:
            return ""
        again = "loaded" if self.action == "queue" else "loaded again"
        return f"{again} after {self.again_after_s:.0f} s"
