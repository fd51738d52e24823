"""Replays days of traffic with a scripted adviser: ``python -m bench.brain_replay``.

Models with sessions at hours that their cards state share two devices with models of irregular
traffic. The hours of each day are new, so the rules cannot know them. An adviser that reads them
reviews the fleet every five minutes, under both authorities; so do one that chooses at random, one
that departs from the rules wherever it may, and one that does so once it is trusted. Cold starts
are loads that a request waited for. The last lines are the goals: what `decide` wins, and what the
worst players cost.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agents.brain import AdvisedBrain
from agents.llm.choices import Choices, Field, open_fields, parse_answer
from agents.llm.tools import Toolbox
from agents.llm.transcript import Transcript
from agents.replay.planner_under_replay import PlannerUnderReplay, unrestricted_policy
from agents.replay.policy import Assignment, DevicePool
from agents.replay.result import ReplayResult
from agents.replay.simulated_fleet import footprint
from agents.replay.simulation import Simulation
from agents.replay.traces import ReplayModel, Request, Trace
from agents.rules.planner import RulePlanner
from bench.brain_players import DEPARTURES
from bench.goals import Goal, print_goals
from modelium.config.sections.brain import Authority, BrainSection
from modelium.models import GIB, Departure, DepartureKind, Model, Trigger
from modelium.models.advice import Advice
from modelium.policy.departures import REMEMBERED_S, is_trusted, noted, spared, was_wrong
from modelium.ports import Question

HOUR_S = 3600.0
REVIEW_S = 300.0
SOON_S = 420.0
"""A session that begins so soon is prepared: a review and a load take about as long."""

LATER_S = 1800.0
DEVICES = (80 * GIB, 80 * GIB)


@dataclass(frozen=True, slots=True)
class Session:
    """Hours, from the first midnight on, in which a model is used."""

    begin_h: float
    end_h: float


class Days:
    """The trace of some days, and the hours that the cards state."""

    def __init__(self, *, seed: int, days: int = 1, scheduled: int = 5, irregular: int = 6) -> None:
        """Draw sessions of ``scheduled`` models and bursts of ``irregular`` ones, anew each day."""
        draw = random.Random(seed)
        models, requests = [], list[Request]()
        self.sessions: dict[int, list[Session]] = {}
        for i in range(scheduled + irregular):
            size = draw.choice((14, 20, 28, 36))
            models.append(ReplayModel(name=f"m{i}", bytes=size * GIB, load_s=20.0 + 2.0 * size))
            if i < scheduled:
                begins = [
                    24 * day + hour
                    for day in range(days)
                    for hour in sorted(draw.sample(range(7, 21), 4))
                ]
                self.sessions[i] = [Session(b, b + draw.uniform(0.2, 0.6)) for b in begins]
                spans = [(s.begin_h * HOUR_S, s.end_h * HOUR_S, 20.0) for s in self.sessions[i]]
            else:
                starts = [
                    (24 * day + draw.uniform(0, 24)) * HOUR_S
                    for day in range(days)
                    for _ in range(draw.randint(6, 16))
                ]
                spans = [(s, s + draw.uniform(60, 1500), 40.0) for s in starts]
            for begin, end, gap_s in spans:
                at = begin
                while at < end:
                    requests.append(Request(at, i, draw.uniform(0.5, 4.0)))
                    at += draw.expovariate(1 / gap_s)
        requests.sort(key=lambda r: r.t_s)
        self.trace = Trace(models=tuple(models), requests=tuple(requests))

    def begins_within(self, model: str, now: float, seconds: float) -> bool:
        """Whether a session of ``model`` is on, or begins within ``seconds``."""
        return any(
            s.begin_h * HOUR_S - seconds <= now < s.end_h * HOUR_S
            for s in self.sessions.get(int(model[1:]), ())
        )


class Scripted:
    """In place of `agents.llm.agent.Agent`: answers at once, without an endpoint."""

    base_url = model = "scripted"

    def __init__(self, days: Days, *, seed: int) -> None:
        """Know the cards of ``days``."""
        self.endpoint = self
        self.now = 0.0
        self.days = days
        self.draw = random.Random(seed)
        self.refused = 0
        self.trusted: set[DepartureKind] = set()
        """Kinds whose departures are carried out."""

    @staticmethod
    def redacted(text: str) -> str:
        """Return ``text``."""
        return text

    async def choose(
        self, choices: Choices, _toolbox: Toolbox, check: Any, _transcript: Transcript
    ) -> Advice:
        """Return the answer, or none of its choices where they cannot be done together."""
        self.trusted = {
            kind for kind in DepartureKind if is_trusted(kind, choices.fleet.departures)
        }
        given = {one.name: self.answer(one) for one in open_fields(choices)}
        advice = choices.advice(parse_answer(given, choices).chosen)
        if check(advice):
            self.refused += 1
            return Advice()
        return advice

    def answer(self, field: Field) -> list[Any]:
        """Return the choice for one field of a review, which are all lists."""
        return []


class Reader(Scripted):
    """Has read the cards: it prepares sessions, and lets go of nothing that is needed soon."""

    def answer(self, field: Field) -> list[Any]:
        """Choose what a session that begins needs."""
        needed = [str(v) for v in field.allowed if self._needed(str(v).partition(" ")[0])]
        match field.name:
            case "prewarm" | "spare":
                return needed[: field.most]
            case "make_room":
                return [v for v in needed if not any(map(self._soon, _victims(v)))][:1]
        return []

    def _needed(self, model: str) -> bool:
        return self.days.begins_within(model, self.now, SOON_S)

    def _soon(self, model: str) -> bool:
        return self.days.begins_within(model, self.now, LATER_S)


class Foolish(Scripted):
    """Chooses legal values at random."""

    def answer(self, field: Field) -> list[Any]:
        """Return some of what is allowed."""
        most = min(field.most, len(field.allowed))
        return self.draw.sample(field.allowed, self.draw.randint(0, most))


class Spendthrift(Scripted):
    """Departs from the rules wherever it may, the last way that is offered."""

    def answer(self, field: Field) -> list[Any]:
        """Return as many departures as are allowed, and no advice."""
        return list(field.allowed[-1:]) if field.name in DEPARTURES else []


class TwoFaced(Reader):
    """Earns the trust of the kinds that a reader departs by, and then spends it."""

    def answer(self, field: Field) -> list[Any]:
        """Choose as a reader, but departures that would be carried out as a spendthrift."""
        wanted = {"spare": DepartureKind.SPARE, "make_room": DepartureKind.EVICT}
        if wanted.get(field.name) in self.trusted:
            return list(field.allowed[-1:])
        return super().answer(field)


def _victims(label: str) -> Sequence[str]:
    return label.partition(" evicting ")[2].split(",") if " evicting " in label else ()


class AdvisedUnderReplay(PlannerUnderReplay):
    """The planner with a scripted adviser, which reviews the fleet."""

    def __init__(self, days: Days, agent: Scripted, may: Mapping[DepartureKind, float]) -> None:
        """``may``: the budgets of departures; empty: it advises only."""
        policy = unrestricted_policy(auto_unload_after_s=HOUR_S, min_residency_s=60.0)
        super().__init__(
            days.trace,
            policy=policy.model_copy(update={"departures": dict(may)}),
            name=type(agent).__name__.lower(),
            sweep_s=REVIEW_S,
        )
        self.departures: list[Departure] = []
        self._requests = deque(days.trace.requests)
        self._ready_at: dict[int, float] = {}
        self._agent = agent
        self._brain = AdvisedBrain(
            rules=RulePlanner(estimate=footprint),
            agent=agent,  # type: ignore[arg-type] - it has what the brain uses
            clock=self._fleet.clock,
        )

    def choose(self, model: int, now: float, pool: DevicePool) -> Assignment | None:
        """Note since when ``model`` is ready, as the store does."""
        found = super().choose(model, now, pool)
        if found is not None:
            self._note_load(model, self._fleet.clock.time())
        return found

    def _watch(self, now: float) -> None:
        """Note all requests up to ``now``, as the control loop does."""
        offset = self._fleet.clock.time() - now
        watched = [(now, -1)]
        while self._requests and self._requests[0].t_s <= now:
            request = self._requests.popleft()
            watched.insert(-1, (request.t_s, request.model))
        open_ = [d for d in self.departures if d.seen_until < d.until]
        for t_s, model in watched:
            asked = {self._fleet.name(model): t_s + offset} if model >= 0 else {}
            open_ = [noted(d, asked, at=t_s + offset) for d in open_]
        fresh = iter(open_)
        self.departures = [next(fresh) if d.seen_until < d.until else d for d in self.departures]

    def expired(self, model: int, idle_s: float, now: float, pool: DevicePool) -> bool:
        """Decide as the sweep does, which leaves alone what is spared."""
        self._fleet.clock.now = now
        fleet = self._fleet.snapshot([], pool, pending=False)
        fleet = fleet.model_copy(update={"departures": tuple(self.departures)})
        if self._fleet.name(model) in spared(fleet, now=fleet.at):
            return False
        return super().expired(model, idle_s, now, pool)

    def prewarm(self, now: float, pool: DevicePool) -> Sequence[tuple[int, Assignment]]:
        """Have the fleet reviewed."""
        self._fleet.clock.now = self._agent.now = now
        self._watch(now)
        absent = [m for m in range(len(self._trace.models)) if not pool.devices_of(m)]
        fleet = self._fleet.snapshot(absent, pool, pending=False)
        recent = [d for d in self.departures if d.at > fleet.at - REMEMBERED_S]
        models = tuple(self._since_ready(m) for m in fleet.models)
        fleet = fleet.model_copy(update={"departures": tuple(recent), "models": models})
        question = Question(trigger=Trigger.REVIEW, now=fleet.at)
        advice = asyncio.run(self._brain.advise(question, fleet, self.policy))
        plan = asyncio.run(self._brain.decide(question, fleet, self.policy, advice))
        made = [
            d.model_copy(update={"at": fleet.at, "seen_until": fleet.at}) for d in plan.departures
        ]
        self.departures = [*made, *self.departures]
        leaving = [self._fleet.model_index(a.model) for a in plan.unloads]
        found = []
        for load in plan.loads:
            victims, leaving = tuple(leaving), []
            devices = self._fleet.device_indices(load.devices)
            index = self._fleet.model_index(load.model)
            self._note_load(index, fleet.at)
            found.append((index, Assignment(devices, victims)))
        return found

    def _note_load(self, model: int, at: float) -> None:
        self._ready_at[model] = at + self._trace.models[model].load_s

    def _since_ready(self, model: Model) -> Model:
        """Return ``model`` with the time since when it is ready, as the store has it."""
        at, held = self._ready_at.get(self._fleet.model_index(model.name)), model.deployment
        if at is None or held is None:
            return model
        held = held.model_copy(update={"ready_at": at})
        return model.model_copy(update={"deployment": held})


PLAYERS: Mapping[Authority, Sequence[type[Scripted]]] = {
    Authority.ADVISE: (Scripted, Reader, Foolish),
    Authority.DECIDE: (Reader, Foolish, Spendthrift, TwoFaced),
}
"""Players by authority; `Scripted` leaves everything to the rules."""


def main() -> None:
    """Run, print, and check the goals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2, help="draws to replay")
    parser.add_argument("--days", type=int, default=2, help="days of each")
    given = parser.parse_args()
    totals: dict[str, list[float]] = {}
    for seed in range(given.seeds):
        days = Days(seed=seed, days=given.days)
        for authority in Authority:
            may = BrainSection().may if authority is Authority.DECIDE else {}
            for player in PLAYERS[authority]:
                policy = AdvisedUnderReplay(days, player(days, seed=seed), may)
                result = Simulation(trace=days.trace, devices=DEVICES, policy=policy).run()
                name = "rules" if player is Scripted else f"{authority.value}: {policy.name}"
                _show(seed, name, result, policy)
                sums = totals.setdefault(name, [0.0, 0.0])
                sums[0] += result.cold_starts - 0.0
                sums[1] += result.load_seconds
    rules = totals["rules"]
    print()
    for name, (cold, load) in totals.items():
        print(f"{name:22} cold starts {cold / rules[0]:6.3f}  load-seconds {load / rules[1]:6.3f}")
    worst = max(totals[f"decide: {name}"][0] / rules[0] for name in ("foolish", "spendthrift"))
    print_goals(
        Goal(
            name="decide-cold-starts/rules",
            measured=totals["decide: reader"][0] / rules[0],
            relation="≤",
            required=0.9,
        ),
        Goal(name="worst-cold-starts/rules", measured=worst, relation="≤", required=1.0),
        Goal(
            name="two-faced-cold-starts/rules",
            measured=totals["decide: twofaced"][0] / rules[0],
            relation="≤",
            required=1.0,
        ),
    )


def _show(seed: int, name: str, result: ReplayResult, policy: AdvisedUnderReplay) -> None:
    acted, shadows = ([d for d in policy.departures if d.shadow is s] for s in (False, True))
    kinds = ", ".join(
        f"{sum(d.kind is kind for d in acted)}+{sum(d.kind is kind for d in shadows)} {kind}"
        for kind in DepartureKind
    )
    verdicts = [was_wrong(d) for d in policy.departures]
    sys.stdout.write(
        f"draw {seed}  {name:22} {result.cold_starts} cold starts, {result.load_seconds:.0f} s "
        f"loading, waits p99 {result.wait_p99_s or 0:.0f} s; departures+shadows: {kinds}; right "
        f"{verdicts.count(False)}, wrong {verdicts.count(True)}; refused {policy._agent.refused}\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
