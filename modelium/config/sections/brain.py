"""The ``brain`` section."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, Strict

from modelium.config.fields import HttpUrl, Interval, Refused, Section, Text, note, setting
from modelium.models import DepartureKind


class Authority(StrEnum):
    """How far the choice of an LLM reaches."""

    ADVISE = "advise"
    """The rules decide; it chooses where they have no strong preference."""
    DECIDE = "decide"
    """It may also depart from the rules, as far as `brain.may` allows."""


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # not found is a KeyError
        raise Refused(f"{name!r} is no IANA time zone, such as Europe/Berlin") from None
    return name


TimeZone = Annotated[Text, AfterValidator(_zone), note(allowed="IANA time zone")]
LoadSeconds = Annotated[float, Strict(), Field(ge=0), note(unit="load-seconds per hour")]


class BrainSection(Section):
    """The LLM that advises the planner. Without `base_url` the rules decide alone."""

    base_url: HttpUrl | None = setting(
        None,
        "Base URL of an OpenAI-compatible API.",
        why="Null: the rules decide alone, which is a supported mode.",
    )
    model: Text | None = setting(
        None,
        "Name of the LLM at that API.",
        why="Null: no default could be right for every API.",
    )
    api_key_env: Text = setting(
        "MODELIUM_BRAIN_API_KEY",
        "Name of the environment variable that contains the API key.",
        why="A variable keeps the key out of the configuration file.",
    )
    authority: Authority = setting(
        Authority.ADVISE,
        "Whether the LLM may depart from the rules (`decide`) or chooses within them (`advise`).",
        why="Advise: no request waits longer then, whatever the LLM answers; in decide, one that "
        "has earned trust may spend what `may` allows before it loses it (docs/brain.md).",
    )
    may: dict[DepartureKind, LoadSeconds] = setting(
        {kind: 300.0 for kind in DepartureKind},
        "In `decide`: the kinds of departure, each with the load-seconds that it may give up per "
        "hour. queue: a model waits that the rules would load; device: other devices; evict: a "
        "model leaves that the rules would keep; spare: one stays that they would unload. A kind "
        "that is not listed is not allowed.",
        why="All kinds, with 300 each: about five loads of a usual model, which one good choice "
        "outweighs.",
    )
    time_zone: TimeZone = setting(
        "UTC",
        "The zone in which the LLM is told the time.",
        why="UTC: cards and habits of people are in local time, so set your own.",
    )
    time_budget_seconds: Interval = setting(
        30.0,
        "Time after which the rules decide without the LLM.",
        why="30 s: no client request waits for the LLM, but an ingest should not be held up.",
    )
    max_steps: Annotated[int, Strict(), Field(ge=1), note(unit="tool rounds")] = setting(
        6,
        "Rounds of tool calls after which the LLM has to decide, or the rules do without it.",
        why="There are nine tools, and one round may call several.",
    )
    max_tokens: Annotated[int, Strict(), Field(ge=1), note(unit="tokens")] = setting(
        20_000,
        "Prompt and completion tokens per decision after which the rules decide without the LLM.",
        why="20,000 is several times what a decision needs, and limits its cost.",
    )
    review_interval_seconds: Interval = setting(
        300.0,
        "How often the LLM reviews the whole fleet.",
        why="Five minutes: idle time, queues and expected demand change slowly, and the rules "
        "act every few seconds anyway.",
    )
