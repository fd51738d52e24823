"""The ``brain`` section."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict

from modelium.config.fields import HttpUrl, Interval, Section, Text, note, setting


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
    time_budget_seconds: Interval = setting(
        30.0,
        "Time after which the rules decide without the LLM.",
        why="30 s: no client request waits for the LLM, but an ingest should not be held up.",
    )
    max_steps: Annotated[int, Strict(), Field(ge=1), note(unit="tool rounds")] = setting(
        6,
        "Rounds of tool calls after which the rules decide without the LLM.",
        why="There are seven tools, and one round may call several.",
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
