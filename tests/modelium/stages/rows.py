"""States that stages find in the store, without the runs that lead there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from modelium import analysis
from modelium.lifecycle import ModelState
from modelium.models import (
    Deployment,
    Load,
    Model,
    Plan,
    Priority,
    Report,
    RuntimeName,
    Trigger,
    Unload,
)
from modelium.ports import Stage
from modelium.stages import setups
from modelium.stages.launcher import StageLauncher
from tests.fakes import fleets
from tests.fakes.devices import CPU
from tests.fakes.runtime import upstream
from tests.modelium.conftest import World

HELD = 1000
"""Bytes booked for each load."""


class Script:
    """Runs no stage: it notes what was asked for, and answers what a test says."""

    def __init__(self, **answers: Report) -> None:
        """``answers``: by stage."""
        self.asked: list[tuple[Stage, dict[str, Any]]] = []
        self._answers = answers

    async def run(self, stage: Stage, **parameters: Any) -> Report:
        self.asked.append((stage, parameters))
        return self._answers.get(stage, Report(stage=stage, outcome="nothing"))

    def stages(self) -> list[tuple[Stage, str]]:
        """Return which stages were run, each with its model."""
        return [(stage, given["model"]) for stage, given in self.asked]


def scripted(world: World, **answers: Report) -> Script:
    """Have ``world`` run no stages from now on."""
    script = Script(**answers)
    launcher = StageLauncher(runner=script)
    world.launcher = launcher
    world.services = replace(world.services, launcher=launcher)
    return script


async def background(world: World) -> None:
    """Wait for what was started in the background."""
    await world.launcher._background.wait(timeout_s=60)


def registered(world: World, name: str = "tiny", *, version: int = 1, **given: Any) -> Model:
    """Register a version that Ray Serve can serve; no files of it exist."""
    fields: dict[str, Any] = {
        "path": world.services.repository.published / f"{name}@{version}",
        "digest": f"sha256:{name}{version}",
        "team": None,
        "priority": Priority.LOW,
        "priority_ceiling": Priority.HIGH,
        "pinned": False,
        "profile": fleets.profile(0.0, digest=f"sha256:{name}{version}"),
        "version": version,
    }
    found = world.store.register(name, **(fields | given))
    world.services.switchboard.know(world.store.versions())
    return found


def accepted(world: World, *actions: Any, trigger: Trigger = Trigger.SWEEP, **given: Any) -> str:
    """Book ``actions``; return the decision's id."""
    plan = Plan(
        author="rules",
        trigger=trigger,
        actions=actions,
        revision=world.store.revision(),
        **given,
    )
    return world.store.accept(plan, snapshot_digest="", trace={}).id


def booked(world: World, name: str = "tiny", *, held: int = HELD) -> str:
    """Book a load that nobody carries out."""
    if world.store.model(name).state == "ingested":
        world.store.states.mark_analyzed(name)
    action = Load(
        model=name,
        runtime=RuntimeName.RAY_SERVE,
        devices=(CPU.id,),
        reserve={CPU.id: held},
        reason="booked",
    )
    return accepted(world, action)


def draining(world: World, *names: str, **given: Any) -> str:
    """Book an eviction that nobody carries out."""
    actions = [Unload(model=name, reason="evicted", **given) for name in names or ("tiny",)]
    return accepted(world, *actions)


def ready(
    world: World,
    name: str = "tiny",
    *,
    opened: bool = True,
    handle: Mapping[str, Any] | None = None,
    **given: Any,
) -> Model:
    """Have a registered model loaded: in the store, in the runtime and, ``opened``, routed."""
    booked(world, name, **given)
    record = became_ready(world, name, handle=handle)
    if opened and record.twin_of is None and record.deployment is not None:
        where, version = record.deployment.upstream, record.deployment.version
        assert where is not None
        world.services.switchboard.open(name, where, version=version)
    return record


def became_ready(world: World, name: str, *, handle: Mapping[str, Any] | None = None) -> Model:
    """End a load that is booked: in the store and in the runtime."""
    deployment = deployment_of(world, name)
    where = upstream(deployment.name)
    world.runtime.held[deployment.name] = where
    fields = {
        "upstream": where,
        "handle": dict(handle or {}),
        "ready_at": world.clock.time(),
        "load_s": 3.0,
    }
    deployment = deployment.model_copy(update=fields)
    return world.store.states.mark_ready(name, deployment)


def becomes_ready_when_read(
    world: World, monkeypatch: pytest.MonkeyPatch, *, times: int = 1
) -> None:
    """Have a load become ready right after it was read ``times`` from the store.

    So it does when its run is cancelled while a thread writes that it is ready.
    """
    read, left = world.services.store.model, times

    async def model(name: str) -> Model:
        nonlocal left
        record = await read(name)
        left -= record.state is ModelState.LOADING
        if record.state is ModelState.LOADING and left == 0:
            became_ready(world, name)
        return record

    monkeypatch.setattr(world.services.store, "model", model)


def deployment_of(world: World, name: str = "tiny") -> Deployment:
    found = world.store.model(name).deployment
    assert found is not None
    return found


def states(world: World) -> dict[str, str]:
    """Return the state of each model and twin."""
    return {model.name: model.state.value for model in world.store.view()[1]}


def events(world: World, kind: str) -> list[tuple[str | None, dict[str, Any]]]:
    """Return model and detail of the events of a kind."""
    return [(e.model, dict(e.detail)) for e in world.heard if e.kind == kind]


def setup(world: World, runtime: RuntimeName = RuntimeName.RAY_SERVE) -> dict[str, Any]:
    """Return what events say of the runtime that a load was in."""
    return setups.attempt(world.services, runtime)


def with_files(world: World, name: str = "tiny", **given: Any) -> Model:
    """Register a model whose folder has a file of the digest that is registered."""
    folder = world.services.repository.published / name
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_bytes(name.encode())
    digest = analysis.digest(folder)
    fields = {"path": folder, "digest": digest, "seal": analysis.seal(folder)}
    fields["profile"] = fleets.profile(0.0, digest=digest)
    return registered(world, name, **(fields | given))


def configured(world: World, section: str, **fields: Any) -> None:
    """Change one section of the configuration."""
    old = getattr(world.services.config, section)
    config = world.services.config.model_copy(update={section: old.model_copy(update=fields)})
    world.services = replace(world.services, config=config)
