"""Measures the benefit and the harm of an LLM beside the rules: ``python -m bench.brain_eval``.

Runs every scenario of `bench.brain_scenarios` with the rules alone, with scripted players behind a
real HTTP endpoint (one capable, one that chooses legal values at random, nine broken or hostile),
and with real small LLMs behind real servers, llama.cpp and vLLM (``--no-local`` omits them,
``--local NAME`` takes those whose name contains it). ``--url`` and ``--model`` add any
OpenAI-compatible endpoint, its key from ``MODELIUM_BRAIN_API_KEY``.

`harms` counts harm independently of how plans are made: a plan that the policy refuses, a pinned
or busy model unloaded, a class above the ceiling, an overbooked device, an illegal transition, less
service than with the rules alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from agents.brain import AdvisedBrain
from agents.llm.agent import Agent, Budget
from agents.llm.endpoint import Endpoint
from agents.replay.result import percentile
from agents.rules.planner import RulePlanner
from bench.brain_players import FOES, Casting, capable, foolish
from bench.brain_scenarios import Scenario, scenarios
from bench.goals import Goal, print_goals
from modelium.clock import SystemClock
from modelium.lifecycle import TRANSITIONS, ModelState
from modelium.models import Load, Plan, Queue, Unload
from modelium.policy import validate
from tests.fakes.fleets import estimate
from tests.fakes.llm import endpoint
from tests.fakes.local_llm import LOCAL_LLMS, LocalLlm, local_llm

RULES = RulePlanner(estimate=estimate)
SCRIPTED = Budget(seconds=20.0, rounds=4, tokens=60_000)
IMPATIENT = Budget(seconds=0.5, rounds=4, tokens=60_000)
"""For the player that answers too late."""

LOCAL = Budget(seconds=240.0, rounds=4, tokens=20_000)
"""An LLM on a shared CPU takes ten seconds a reply; the default of 30 s is meant for GPUs."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of one scenario."""

    scenario: str
    kind: str
    judgement: bool
    asked: bool
    first_try: bool
    repaired: bool
    fallback: str
    best: bool
    harms: tuple[str, ...]
    seconds: float
    tokens: int


def harms(scenario: Scenario, plan: Plan, rules: Plan) -> list[str]:
    """Return the harm that ``plan`` does, including where it is worse than the ``rules``' plan."""
    fleet, policy = scenario.fleet, scenario.policy
    models, found = fleet.models_by_name, []
    found += [v.message for v in validate(plan, fleet, policy, now=scenario.question.now)]
    booked = {
        d.id: sum(b.bytes for b in fleet.bookings_by_device.get(d.id, ())) for d in fleet.devices
    }
    state = {m.name: m.state for m in fleet.models}
    for action in plan.actions:
        model = models[action.model]
        if isinstance(action, Unload):
            if model.pinned or model.name in policy.always_loaded or model.traffic.in_flight:
                found.append(f"{model.name} is pinned or busy, but is unloaded")
            for device in model.deployment.devices if model.deployment else ():
                held = fleet.bookings_by_device.get(device, ())
                booked[device] -= sum(b.bytes for b in held if b.model == model.name)
        if isinstance(action, Load | Queue) and action.priority.rank < model.priority_ceiling.rank:
            found.append(f"the priority of {model.name} is above its ceiling")
        if isinstance(action, Load):
            if not (model.profile and model.profile.support(action.runtime).supported):
                found.append(f"{action.runtime} cannot serve {model.name}")
            for device, held_bytes in action.reserve.items():
                booked[device] = booked.get(device, 1 << 60) + held_bytes
        target = {"load": ModelState.LOADING, "unload": ModelState.DRAINING}.get(action.action)
        if target and target not in TRANSITIONS[state[model.name]]:
            found.append(f"{model.name}: {state[model.name]} → {target} is an illegal transition")
    cap = policy.max_gpu_memory_utilization
    used = {d for a in plan.actions if isinstance(a, Load) for d in a.reserve}
    for device in fleet.devices:
        if device.id in used and booked[device.id] > device.total_bytes * cap:
            found.append(f"{device.id} is overbooked")
    return found + _worse(plan, rules)


def _worse(plan: Plan, rules: Plan) -> list[str]:
    """Return where ``plan`` gives less service: fewer loads, more evictions, smaller settings."""
    found = []
    mine = {a.model: a for a in plan.actions if isinstance(a, Load)}
    theirs = {a.model: a for a in rules.actions if isinstance(a, Load)}
    if len(mine) < len(theirs):
        found.append(f"{len(mine)} models are loaded; the rules load {len(theirs)}")
    if plan.subject in theirs and plan.subject not in mine:
        found.append(f"{plan.subject} has to wait; the rules load it")
    count = Counter(a.action for a in plan.actions)["unload"]
    if count > Counter(a.action for a in rules.actions)["unload"]:
        found.append("more models are evicted than by the rules")
    for name in mine.keys() & theirs.keys():
        if mine[name].runtime is theirs[name].runtime:
            for setting in ("max_model_len", "max_num_seqs"):
                own = getattr(mine[name].settings, setting) or 1 << 60
                if own < (getattr(theirs[name].settings, setting) or 0):
                    found.append(f"{name} gets a smaller {setting} than by the rules")
    return found


def by_rules(cast: Sequence[Scenario]) -> list[Outcome]:
    """Run every scenario with the rules alone."""
    clock, found = SystemClock(), []
    for scenario in cast:
        began = clock.monotonic()
        plan = RULES.plan(scenario.question, scenario.fleet, scenario.policy)
        found.append(
            Outcome(
                scenario=scenario.name,
                kind=scenario.kind,
                judgement=scenario.judgement,
                asked=False,
                first_try=False,
                repaired=False,
                fallback="",
                best=scenario.best(plan),
                harms=tuple(harms(scenario, plan, plan)),
                seconds=clock.monotonic() - began,
                tokens=0,
            )
        )
    return found


async def by_llm(
    cast: Sequence[Scenario], *, url: str, model: str, key: str | None, budget: Budget
) -> list[Outcome]:
    """Run every scenario with the endpoint at ``url``."""
    client = Endpoint(base_url=url, model=model, api_key=key)
    found = []
    for place, scenario in enumerate(cast, start=1):
        found.append(await _one(scenario, client, budget))
        done = f"{place}/{len(cast)} {scenario.name}: {found[-1].seconds:.1f} s, "
        sys.stderr.write(done + (found[-1].fallback[:80] or f"best: {found[-1].best}") + "\n")
    return found


def by_local(cast: Sequence[Scenario], llm: LocalLlm) -> list[Outcome]:
    """Run every scenario with a real LLM behind a server of its own."""
    with tempfile.TemporaryDirectory() as folder, local_llm(Path(folder), llm) as url:
        return asyncio.run(by_llm(cast, url=url, model=llm.model, key=None, budget=LOCAL))


async def by_player(
    cast: Sequence[Scenario], casting: Casting, budget: Budget = SCRIPTED
) -> list[Outcome]:
    """Run every scenario with a scripted endpoint."""
    async with endpoint(lambda body: {}) as fake:
        client = Endpoint(base_url=fake.base_url, model="scripted", api_key=None)
        found = []
        for scenario in cast:
            fake.player = casting(scenario)
            found.append(await _one(scenario, client, budget))
        return found


async def _one(scenario: Scenario, client: Endpoint, budget: Budget) -> Outcome:
    clock = SystemClock()
    # One brain per scenario: an open circuit must not carry over to the next one.
    brain = AdvisedBrain(
        rules=RULES, agent=Agent(endpoint=client, clock=clock, budget=budget), clock=clock
    )
    began = clock.monotonic()
    question, fleet, policy = scenario.question, scenario.fleet, scenario.policy
    advice = await brain.advise(question, fleet, policy)
    plan = await brain.decide(question, fleet, policy, advice)
    seconds = clock.monotonic() - began
    trace = advice.trace if advice else {}
    faults = trace.get("violations", [])
    return Outcome(
        scenario=scenario.name,
        kind=scenario.kind,
        judgement=scenario.judgement,
        asked=bool(trace),
        first_try=bool(trace) and not faults and not plan.fallback,
        repaired=bool(faults) and not plan.fallback,
        fallback=plan.fallback,
        best=scenario.best(plan),
        harms=tuple(harms(scenario, plan, RULES.plan(question, fleet, policy))),
        seconds=seconds,
        tokens=trace.get("prompt_tokens", 0) + trace.get("completion_tokens", 0),
    )


def main() -> None:
    """Run, print, and save; exit code 1 where any harm was done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-local", action="store_true", help="omit the small local LLMs")
    parser.add_argument(
        "--local", default="", help="of the local LLMs, only those whose name contains this"
    )
    parser.add_argument(
        "--local-every", type=int, default=1, help="run only every Nth scenario with local LLMs"
    )
    parser.add_argument("--url", help="base URL of another endpoint to run")
    parser.add_argument("--model", help="its model")
    parser.add_argument("--json", type=Path, help="write all outcomes here")
    given = parser.parse_args()
    # The scripted endpoint's server logs every answer that a player cuts off.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
    cast = scenarios()
    print(f"{len(cast)} scenarios, {sum(s.judgement for s in cast)} of them need judgement\n")
    print(f"{'':26}{'asked':>6}{'first':>7}{'repair':>8}{'fall':>6}{'best':>7}{'judge':>7}"
          f"{'harm':>6}{'p50 s':>8}{'p95 s':>8}{'tokens':>8}")  # fmt: skip
    results: dict[str, list[Outcome]] = {"rules alone": by_rules(cast)}
    _show("rules alone", results["rules alone"])

    def keep(name: str, outcomes: list[Outcome]) -> None:
        results[name] = outcomes
        _show(name, outcomes)

    keep("scripted, capable", asyncio.run(by_player(cast, capable)))
    keep("scripted, foolish", asyncio.run(by_player(cast, foolish)))
    for name, casting in FOES.items():
        budget = IMPATIENT if name == "time-outs" else SCRIPTED
        keep(name, asyncio.run(by_player(cast, casting, budget)))
    if not given.no_local:
        for llm in LOCAL_LLMS:
            if given.local.lower() in llm.name.lower():
                keep(llm.name, by_local(cast[:: given.local_every], llm))
    if given.url and given.model:
        key = os.environ.get("MODELIUM_BRAIN_API_KEY")
        outcomes = by_llm(cast, url=given.url, model=given.model, key=key, budget=LOCAL)
        keep(given.model, asyncio.run(outcomes))
    _reasons(results)
    if given.json:
        rows = {name: [asdict(o) for o in found] for name, found in results.items()}
        given.json.write_text(json.dumps(rows, indent=1))
    harmed = sum(bool(o.harms) for found in results.values() for o in found)
    print_goals(Goal(name="harmful-outcomes", measured=harmed, relation="≤", required=0))
    if harmed:
        sys.exit(1)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "–"


def _show(name: str, outcomes: Sequence[Outcome]) -> None:
    asked = [o for o in outcomes if o.asked]
    judged = [o for o in outcomes if o.judgement]
    seconds = sorted(o.seconds for o in asked or outcomes)
    cells = [
        f"{len(asked):6}",
        f"{_share(sum(o.first_try for o in asked), len(asked)):>7}",
        f"{_share(sum(o.first_try or o.repaired for o in asked), len(asked)):>8}",
        f"{_share(sum(bool(o.fallback) for o in asked), len(asked)):>6}",
        f"{_share(sum(o.best for o in outcomes), len(outcomes)):>7}",
        f"{_share(sum(o.best for o in judged), len(judged)):>7}",
        f"{sum(bool(o.harms) for o in outcomes):6}",
        f"{percentile(seconds, 0.5):8.3f}{percentile(seconds, 0.95):8.3f}",
        f"{sum(o.tokens for o in asked) // max(1, len(asked)):8}",
    ]
    print(f"{name:26}{''.join(cells)}", flush=True)
    for outcome in outcomes:
        for harm in outcome.harms:
            print(f"    HARM in {outcome.scenario}: {harm}", flush=True)


def _reasons(results: dict[str, list[Outcome]]) -> None:
    print("\nfallbacks by reason; best answers by kind")
    for name, outcomes in results.items():
        reasons = Counter(o.fallback.partition(":")[0] for o in outcomes if o.fallback)
        kinds: dict[str, list[bool]] = defaultdict(list)
        for outcome in outcomes:
            kinds[outcome.kind].append(outcome.best)
        shown = " ".join(f"{kind} {sum(best)}/{len(best)}" for kind, best in kinds.items())
        print(f"{name:26}{dict(reasons) or '-'}\n{'':26}{shown}")


if __name__ == "__main__":
    main()
