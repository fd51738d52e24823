"""What a self-test found: a report for people, and JSON for bug reports and tests."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from modelium.models import Frozen


class Check(Frozen):
    """One thing that was tried."""

    name: str
    """What was tried and where, e.g. ``vllm: load``."""
    outcome: Literal["ok", "failed", "skipped"]
    detail: str
    """One line for people."""
    facts: dict[str, Any] = Field(default_factory=dict)
    """JSON values: what was measured, with the unit in the name."""


class SelfTestReport(Frozen):
    """Everything that one self-test found. It holds no user's data and no secret."""

    kind: Literal["modelium-selftest"] = "modelium-selftest"
    format: Literal[1] = 1
    modelium: str
    """The version."""
    at: float
    system: dict[str, Any]
    nvml: dict[str, Any]
    """The answers of NVML by call; see `modelium.devices.recording`."""
    checks: tuple[Check, ...] = ()

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.outcome == "failed")
