"""What takes seconds to import keeps the gateway from nothing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modelium.app.late import LateBrain
from modelium.errors import ConfigError
from modelium.models import Fleet, Plan, Trigger
from modelium.policy import Policy
from modelium.ports import Brain, Question
from tests.engines import free_port

pytestmark = pytest.mark.slow

HEAVY = {
    *("prefect", "ray", "numpy", "grpc", "tritonclient", "google.protobuf"),
    *("openai", "langchain_core", "onnxruntime"),
}

UP = f"""
import asyncio, os, sys
file, port = sys.argv[1:]

def tell(event, arguments):
    if event == "socket.bind" and str(arguments[1][1]) == port:
        print("at the bind:", *sorted({HEAVY} & set(sys.modules)), flush=True)
        os._exit(0)

sys.addaudithook(tell)
from modelium.cli.entry import main
sys.argv = ["modelium", "up", "--config", file]
main()
"""

RUNNING = f"""
import asyncio, sys
from pathlib import Path
from modelium.config.loading import load_serving
from modelium.app import running

async def main():
    async with running(load_serving(Path(sys.argv[1]), {{}}).config, environ={{}}):
        print("in all:", *sorted({HEAVY} & set(sys.modules)), flush=True)

asyncio.run(main())
"""


def said(script: str, *arguments: str) -> str:
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def configured(folder: Path, **sections: Any) -> tuple[str, str]:
    """Return a configuration file and the gateway's port in it."""
    port = free_port()
    given = {
        "orchestration": {
            "model_repository": str(folder / "repository"),
            "incoming_directory": str(folder / "incoming"),
            "state_directory": str(folder / "state"),
            "metrics": {"prometheus_enabled": False},
        },
        "gateway": {"port": port},
        **sections,
    }
    file = folder / "modelium.yaml"
    file.write_text(json.dumps(given))
    return str(file), str(port)


def test_the_gateway_listens_before_what_is_slow_is_imported(tmp_path: Path) -> None:
    away = f"http://127.0.0.1:{free_port(3)}"
    enabled = {
        "prefect": {"enabled": True, "port": 0},
        "triton": {"enabled": True, "endpoint": away},
        "ray_serve": {"enabled": True, "endpoint": "http://127.0.0.1:0"},
        "vllm": {"enabled": True, "base_port": 0},
        "llama_cpp": {"enabled": True, "base_port": 0},
        "brain": {"base_url": away, "model": "llm"},
    }
    assert said(UP, *configured(tmp_path, **enabled)) == "at the bind:"


def test_what_is_not_configured_is_never_imported(tmp_path: Path) -> None:
    enabled = {
        "prefect": {"enabled": False},
        "triton": {"enabled": False},
        "ray_serve": {"enabled": False},
        "vllm": {"enabled": False},
        "llama_cpp": {"enabled": True, "base_port": 0},
    }
    assert said(RUNNING, configured(tmp_path, **enabled)[0]) == "in all:"


class Nothing:
    """A brain that plans nothing."""

    async def advise(self, question: Question, fleet: Fleet, policy: Policy) -> None:
        return None

    async def decide(
        self, question: Question, fleet: Fleet, policy: Policy, advice: object = None
    ) -> Plan:
        return Plan(author="rules", trigger=question.trigger)


async def test_a_brain_is_built_once_and_waited_for() -> None:
    made: list[Brain] = []

    def build() -> Brain:
        made.append(Nothing())
        return made[-1]

    brain = LateBrain(build=build)
    question = Question(trigger=Trigger.INGEST)
    fleet, policy = Fleet(at=0.0, revision=0), Policy()
    plans = await asyncio.gather(*(brain.decide(question, fleet, policy) for _ in range(3)))
    assert len(made) == 1 and {plan.author for plan in plans} == {"rules"}


async def test_a_brain_that_cannot_be_built_says_why() -> None:
    def build() -> Brain:
        raise ConfigError("brain.base_url is no address")

    with pytest.raises(ConfigError, match=r"brain\.base_url"):
        await LateBrain(build=build).ready()
