"""Loads that failed in a row, by runtime and class of model (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from modelium.errors import FailureKind
from modelium.models import Event, RuntimeName
from modelium.models.outcomes import ClassFailures, ModelClass
from modelium.policy.backoff import is_the_runtimes

KINDS = ("model.ready", "model.failed", "model.lost", "model.retry")
"""The events that tell of attempts."""

MOST = 200
"""Classes that are reported, the newest failures first: names of architectures come with drops, and
a flood of them must not fill every snapshot."""


class Setup(NamedTuple):
    """What a runtime was when it loaded a model."""

    settings: str
    """Digest of its section of the configuration."""
    engine: str = ""
    """Version; empty: not known."""

    def is_like(self, other: Setup) -> bool:
        """Whether what happened with one tells of the other."""
        unknown = not self.engine or not other.engine
        return self.settings == other.settings and (unknown or self.engine == other.engine)

    def detail(self) -> list[str]:
        """Return this for the detail of an event; `of` reads it."""
        return list(self)

    @classmethod
    def of(cls, detail: Mapping[str, object]) -> Setup:
        """Return what the event with ``detail`` happened with; unlike any where not recorded."""
        match detail.get("setup"):
            case [str(settings), str(engine)]:
                return cls(settings=settings, engine=engine)
            case _:
                return cls(settings="")


class _Attempt(NamedTuple):
    model: str
    at: float
    kind: FailureKind | None
    """``None``: it succeeded."""


def class_failures(
    events: Iterable[Event],
    *,
    classes: Mapping[tuple[str, int], ModelClass],
    setups: Mapping[RuntimeName, Setup],
) -> tuple[ClassFailures, ...]:
    """Return the classes whose last loads in a runtime failed, the newest failure first.

    A load counts as failed where that was the runtime's fault; also one whose engine was lost soon
    after. Failures of a model that was forgiven do not count, nor do those with another setup.

    Args:
        events: of `KINDS`, the oldest first.
        classes: (model, version) → its class.
        setups: runtime → what it is now.
    """
    runs: dict[tuple[ModelClass, RuntimeName], list[_Attempt]] = {}
    for event in events:
        model = event.model or ""
        if event.kind == "model.retry":
            for run in runs.values():
                run[:] = [a for a in run if a.model != model or a.kind is None]
            continue
        place = _place(event, classes, setups)
        if place is None:
            continue
        run = runs.setdefault(place, [])
        kind = _kind(event)
        if event.kind == "model.ready":
            run.append(_Attempt(model, event.at, None))
        elif kind is not None and is_the_runtimes(kind):
            if event.kind == "model.lost":
                _forget_success(run, model)
            run.append(_Attempt(model, event.at, kind))
    found = [
        ClassFailures(
            model_class=model_class,
            runtime=runtime,
            failures=len(failed),
            models=tuple(sorted({a.model for a in failed})),
            last_at=failed[-1].at,
        )
        for (model_class, runtime), run in runs.items()
        if (failed := _failed_last(run))
    ]
    found.sort(key=lambda f: -f.last_at)
    return tuple(found[:MOST])


def _place(
    event: Event,
    classes: Mapping[tuple[str, int], ModelClass],
    setups: Mapping[RuntimeName, Setup],
) -> tuple[ModelClass, RuntimeName] | None:
    """Return what the attempt is evidence of; ``None``: of nothing that is there now."""
    version, runtime = event.detail.get("version"), event.detail.get("runtime")
    if not isinstance(version, int) or runtime not in list(RuntimeName):
        return None
    model_class, now = classes.get((event.model or "", version)), setups.get(RuntimeName(runtime))
    if model_class is None or now is None or not Setup.of(event.detail).is_like(now):
        return None
    return model_class, RuntimeName(runtime)


def _kind(event: Event) -> FailureKind | None:
    kind = event.detail.get("kind")
    return FailureKind(kind) if kind in list(FailureKind) else None


def _forget_success(run: list[_Attempt], model: str) -> None:
    """Take back the load of ``model`` that its early loss has turned into a failure."""
    for place in range(len(run) - 1, -1, -1):
        if run[place].model == model:
            if run[place].kind is None:
                del run[place]
            return


def _failed_last(run: list[_Attempt]) -> list[_Attempt]:
    """Return the failures since the last success, in order of time."""
    after = next((i for i in range(len(run), 0, -1) if run[i - 1].kind is None), 0)
    return run[after:]
