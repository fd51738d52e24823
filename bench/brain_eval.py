"""Measures the benefit and the harm of an LLM beside the rules: ``python -m bench.brain_eval``.

Runs every scenario of `bench.scenarios` under both authorities
(`advise`, `decide`), with the rules alone, with scripted players behind a real HTTP endpoint (one
capable, one that chooses legal values at random, ten broken or hostile), and with real small LLMs
behind real servers, llama.cpp and vLLM (``--no-local`` omits them, ``--local NAME`` takes those
whose name contains it). ``--url`` and ``--model`` add any OpenAI-compatible endpoint, its key from
``MODELIUM_BRAIN_API_KEY``; ``--only`` runs nothing else.

`bench.brain_harms` counts harm independently of how plans are made.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import logging
import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from agents.brain import AdvisedBrain
from agents.llm.agent import Agent, Budget
from agents.llm.endpoint import Endpoint
from agents.replay.result import percentile
from agents.rules.planner import RulePlanner
from bench.brain_harms import harms
from bench.brain_players import FOES, Casting, capable, foolish
from bench.goals import Goal, print_goals
from bench.scenarios import Scenario, scenarios
from modelium.clock import SystemClock
from modelium.config.sections.brain import Authority, BrainSection
from modelium.models import Departure
from modelium.store import Store
from tests.fakes.clock import FakeClock
from tests.fakes.fleets import estimate
from tests.fakes.llm import endpoint
from tests.fakes.local_llm import LOCAL_LLMS, LocalLlm, local_llm
from tests.fakes.trust import TAKES_S, earn

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
    authority: str
    departures: int
    given_up_s: float
    """Load-seconds that the departures give up at most."""
    asked: bool
    first_try: bool
    repaired: bool
    fallback: str
    best: bool
    harms: tuple[str, ...]
    seconds: float
    tokens: int


def under(authority: Authority, cast: Sequence[Scenario]) -> list[Scenario]:
    """Return the scenarios with the usual bounds of ``authority``, and the trust that was earned."""
    may = BrainSection().may if authority is Authority.DECIDE else {}
    return [
        replace(
            s,
            policy=s.policy.model_copy(update={"departures": may}),
            fleet=s.fleet.model_copy(update={"departures": _past(s) if may else ()}),
        )
        for s in cast
    ]


def _past(scenario: Scenario) -> tuple[Departure, ...]:
    return earned_by(scenario.question.now or scenario.fleet.at) if scenario.trusted else ()


@functools.cache
def earned_by(now: float) -> tuple[Departure, ...]:
    """Return departures of which a store says at ``now`` (epoch) that they earned trust."""
    clock = FakeClock()
    clock.step(now - TAKES_S - clock.time())
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(f"sqlite:///{folder}/modelium.db", now=clock.time)
        earn(store, clock)
        found = store.departures.since(0.0)
        store.close()
    return found


def authority_of(scenario: Scenario) -> str:
    """Return the authority under which ``scenario`` is run."""
    return (Authority.DECIDE if scenario.policy.departures else Authority.ADVISE).value


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
                authority=authority_of(scenario),
                departures=0,
                given_up_s=0.0,
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
        rules=RULES,
        agent=Agent(endpoint=client, clock=clock, budget=budget),
        clock=clock,
        history=lambda _model, limit: scenario.history[:limit],
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
        authority=authority_of(scenario),
        departures=len(plan.departures),
        given_up_s=sum(d.price_s for d in plan.departures),
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
        "--every", type=int, default=1, help="run only every Nth scenario with real LLMs"
    )
    parser.add_argument("--url", help="base URL of another endpoint to run")
    parser.add_argument("--model", help="its model")
    parser.add_argument("--json", type=Path, help="write all outcomes here")
    parser.add_argument("--only", action="store_true", help="run only the LLM at --url")
    given = parser.parse_args()
    # The scripted endpoint's server logs every answer that a player cuts off.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
    known = scenarios()
    need = sum(s.judgement for s in known)
    print(f"{len(known)} scenarios, {need} of them need judgement, "
          f"{sum(s.departs for s in known)} a departure from the rules")  # fmt: skip
    results: dict[str, list[Outcome]] = {}
    for authority in Authority:
        print(f"\nauthority: {authority.value}\n{'':26}{'asked':>6}{'first':>7}{'repair':>8}{'fall':>6}"
              f"{'best':>7}{'judge':>7}{'departs':>9}{'gives up s':>11}{'harm':>6}{'p50 s':>8}"
              f"{'p95 s':>8}{'tokens':>8}")  # fmt: skip
        for name, outcomes in _runs(under(authority, known), given):
            results[f"{authority.value}: {name}"] = outcomes
            _show(name, outcomes)
    _reasons(results)
    if given.json:
        rows = {name: [asdict(o) for o in found] for name, found in results.items()}
        given.json.write_text(json.dumps(rows, indent=1))
    harmed = sum(bool(o.harms) for found in results.values() for o in found)
    goals = [
        Goal(name="scenarios", measured=len(known), relation="≥", required=100),
        Goal(name="harmful-outcomes", measured=harmed, relation="≤", required=0),
    ]
    if not given.only:
        best = results["decide: scripted, capable"]
        share = sum(o.best for o in best) / len(best)
        goals.append(Goal(name="capable-best-in-decide", measured=share, relation="≥", required=1))
    print_goals(*goals)
    if harmed:
        sys.exit(1)


def _runs(
    cast: Sequence[Scenario], given: argparse.Namespace
) -> Iterator[tuple[str, list[Outcome]]]:
    """Yield each player's name and outcomes."""
    if not given.only:
        yield "rules alone", by_rules(cast)
        yield "scripted, capable", asyncio.run(by_player(cast, capable))
        yield "scripted, foolish", asyncio.run(by_player(cast, foolish))
        for name, casting in FOES.items():
            budget = IMPATIENT if name == "time-outs" else SCRIPTED
            yield name, asyncio.run(by_player(cast, casting, budget))
    if not given.no_local and not given.only:
        for llm in LOCAL_LLMS:
            if given.local.lower() in llm.name.lower():
                yield llm.name, by_local(cast[:: given.every], llm)
    if given.url and given.model:
        key = os.environ.get("MODELIUM_BRAIN_API_KEY")
        some = cast[:: given.every]
        outcomes = by_llm(some, url=given.url, model=given.model, key=key, budget=LOCAL)
        yield given.model, asyncio.run(outcomes)


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
        f"{sum(o.departures for o in outcomes):9}",
        f"{sum(o.given_up_s for o in outcomes):11.0f}",
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
