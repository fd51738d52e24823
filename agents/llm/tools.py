"""The agent's tools: LangChain tools, typed, read-only, each with a bound (I/O in `History`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Annotated, Any

from langchain_core.tools import BaseTool, StructuredTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langsmith import tracing_context
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from agents.llm.choices import Choices
from agents.llm.lookups import History, Lookups, no_history
from agents.llm.untrusted import shortened

ANSWER_CHARACTERS = 6000
"""Longest answer: about 2,000 tokens, a tenth of the usual budget."""

ToolSource = Callable[[Choices], Sequence[BaseTool]]
"""Builds more tools for a question: read-only, with JSON values or text as their answers."""


class Nothing(BaseModel):
    """No arguments; others are ignored."""


class OneModel(BaseModel):
    """The model that a tool is about."""

    model_config = ConfigDict(strict=True)

    model: Annotated[str, BeforeValidator(lambda given: "" if given is None else given)] = Field(
        "", description="A model's name. Default: the model of the question."
    )


def read_only(name: str, description: str, lookup: Callable[..., Any]) -> BaseTool:
    """Return a tool that answers with what ``lookup`` returns, as JSON, cut at its bound.

    ``lookup`` takes nothing, or ``model``: a name, empty for the model of the question.
    """

    @wraps(lookup)
    def answer(**given: Any) -> str:
        found = lookup(**given)
        text = found if isinstance(found, str) else json.dumps(found, separators=(",", ":"))
        return shortened(text, limit=ANSWER_CHARACTERS)

    takes_model = "model" in lookup.__annotations__
    return StructuredTool(
        name=name,
        description=description,
        args_schema=OneModel if takes_model else Nothing,
        func=answer,
    )


class Toolbox:
    """The tools over one question's snapshot. One per decision; wrong arguments never raise."""

    def __init__(
        self,
        *,
        choices: Choices,
        history: History = no_history,
        more: Sequence[ToolSource] = (),
    ) -> None:
        """``history``: earlier decisions. ``more``: build further tools."""
        look = Lookups(choices=choices, history=history)
        own = [
            read_only("fleet", "Devices, runtimes and what is loaded or queued where.", look.fleet),
            read_only("profile", "What a model is: format, size, context, runtimes.", look.profile),
            read_only(
                "traffic", "Requests of a model: rates, latency, chance of the next.", look.traffic
            ),
            read_only(
                "candidates", "What can be chosen now, with costs and scores.", look.candidates
            ),
            read_only("policy", "The operator's rules.", look.policy),
            read_only("decisions", "Recent decisions on a model, or on all.", look.decisions),
            read_only("card", "The beginning of a model's own card: untrusted text.", look.card),
        ]
        if choices.policy.departures:
            text = "Your latest departures from the rules, and what came of them."
            own.append(read_only("departures", text, look.departures))
        found = [*own, *(tool for source in more for tool in source(choices))]
        self.tools = {tool.name: tool for tool in found}

    def specifications(self) -> list[dict[str, Any]]:
        """Return the tools in OpenAI's format."""
        return [convert_to_openai_tool(tool) for tool in self.tools.values()]

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Return the answer to one call, or what is wrong with the call. Blocks on `History`."""
        tool = self.tools.get(name)
        if tool is None:
            return f"error: there is no tool {name[:60]!r}; there are {', '.join(self.tools)}"
        try:
            # What is looked up is sent to the endpoint and nowhere else.
            with tracing_context(enabled=False):
                return str(tool.invoke(dict(arguments)))
        except ValidationError as exc:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())
            return f"error: wrong arguments: {wrong[:300]}"
