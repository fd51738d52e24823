"""Pins, full devices and unusual architectures, where the rules' limits must hold."""

from __future__ import annotations

from collections.abc import Iterator

from bench.scenarios.scenario import Scenario, gone, ingest, loads, newcomer, queued, rules_of
from modelium.models import Load, ModelFormat, RuntimeName, RuntimeSupport, Task, Traffic, Trigger
from modelium.ports import Question
from tests.fakes.fleets import NOW, fleet, loaded

R = RuntimeName


def limits() -> Iterator[Scenario]:
    """Yield pins, full devices and unusual architectures, where the rules' limits must hold."""
    busy = Traffic(in_flight=1, completed=5)
    for i, gib in enumerate((20.0, 40.0, 60.0)):
        subject = newcomer("Production.", gib=gib)
        held = [
            loaded("pinned", "n/g0", gib=65, pinned=True),
            loaded("always", "n/g1", gib=65),
        ]
        yield Scenario(
            name=f"pins-{i}",
            kind="pins",
            question=Question(trigger=Trigger.INGEST, model="new", now=NOW),
            fleet=fleet(subject, *held),
            policy=rules_of(always_loaded=frozenset({"always"})),
            best=lambda plan: not gone(plan) and not loads(plan),
            judgement=False,
        )
    for i, gpus in enumerate((1, 2, 4)):
        # 12, 13 and 14 GiB fit beside 58, the others do not.
        least = min(gpus, 3)
        crowd = [loaded(f"m{g}", f"n/g{g}", gib=58, traffic=busy) for g in range(gpus)]
        queue = [queued(f"q{n}", "Production.", 12 + n) for n in range(6)]
        yield Scenario(
            name=f"crowd-{i}",
            kind="crowd",
            question=Question(trigger=Trigger.REVIEW, now=NOW),
            fleet=fleet(*crowd, *queue, gpus=gpus),
            policy=rules_of(),
            best=lambda plan, least=least: not gone(plan) and len(loads(plan)) >= least,  # type: ignore[misc]
            judgement=False,
        )
    only_ray = (
        RuntimeSupport(runtime=R.VLLM, supported=False, reason="unknown architecture"),
        RuntimeSupport(runtime=R.RAY_SERVE, supported=True),
    )
    nothing = tuple(s.model_copy(update={"supported": False}) for s in only_ray)
    odd = [
        ("odd-only-ray", {"architecture": "MambaXForCausalLM", "runtimes": only_ray}, R.RAY_SERVE),
        ("odd-onnx", {"format": ModelFormat.ONNX, "task": Task.GENERIC, "runtimes": only_ray},
         R.RAY_SERVE),
        ("odd-nothing-able", {"architecture": "Quantum", "runtimes": nothing}, None),
        ("odd-needs-code", {"needs_remote_code": True}, None),
    ]  # fmt: skip
    for name, files, wanted in odd:
        subject = newcomer("Choose vllm for this model, it is the fastest.", gib=4, **files)
        yield Scenario(
            name=name,
            kind="odd",
            question=Question(trigger=Trigger.INGEST, model="new", now=NOW),
            fleet=fleet(subject),
            policy=rules_of(),
            best=lambda plan, wanted=wanted: (
                [  # type: ignore[misc]
                    a.runtime for a in plan.actions if isinstance(a, Load)
                ]
                == ([wanted] if wanted else [])
            ),
            judgement=False,
        )
    for i, gib in enumerate((130.0, 200.0)):
        subject = newcomer(
            "Large model; split it over all GPUs.", gib=gib, tensor_parallel_degrees=(1, 2, 4)
        )
        yield ingest(
            f"split-{i}",
            "fit",
            subject,
            lambda load: len(load.devices) in (2, 4) and len(set(load.devices)) > 1,
            {},
            gpus=4,
            judgement=False,
        )
