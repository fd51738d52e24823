"""Clients of the data plane."""

from __future__ import annotations

import openai

from tests.modelium.gateway.conftest import Setup

MESSAGES = [{"role": "user", "content": "hi"}]


def client(setup: Setup) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{setup.gateway.url}/v1", api_key="k", max_retries=0)


CHAT = {"model": "m", "messages": []}


def pending(setup: Setup) -> int:
    traffic = setup.board.traffic.snapshot().get("m")
    return traffic.pending if traffic else 0
