"""The proxies that `bench.gateway` compares, each in a separate process in front of one engine."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from agents.rules.planner import RulePlanner
from agents.rules.subprocess import PlannerSubprocess
from bench.planner import NOW, crowded
from modelium import config
from modelium.app.service import GIL_INTERVAL_S
from modelium.clock import SystemClock
from modelium.gateway import Gateway
from modelium.metrics import Metrics
from modelium.models import Fleet, RuntimeName, Trigger, Upstream
from modelium.models.api_keys import ApiKey
from modelium.policy import Policy, RuntimeRules
from modelium.ports import Question
from modelium.routing.switchboard import Switchboard
from modelium.traffic import TrafficBook
from tests.fakes.routing import Listener

ROOT = Path(__file__).resolve().parents[1]

START_S = 180.0
"""LiteLLM's proxy takes half a minute to import on a busy machine."""

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello " * 20},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 20, "total_tokens": 21},
    }
)
NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  keepalive_requests 100000000;
  {servers}
}}
"""
ENGINE = """
  server {{ listen 127.0.0.1:{port}; default_type application/json; return 200 '{answer}'; }}
"""
PROXY = """
  upstream engine {{ server 127.0.0.1:{engine}; keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://engine; proxy_http_version 1.1;
                  proxy_set_header Connection ""; proxy_buffering off; }}
  }}
"""
LITELLM = """
model_list:
  - model_name: m
    litellm_params: {{model: openai/m, api_base: "http://127.0.0.1:{engine}/v1", api_key: none}}
"""


class NoOperations:
    """The operations that the data plane uses, for a gateway without a store."""

    versions = None
    files = None

    async def fleet(self) -> Fleet:
        """Return an empty fleet."""
        return Fleet(at=0, revision=0)

    async def keys(self) -> dict[str, ApiKey]:
        """Return no keys."""
        return {}


async def serve(engine: int, port: int, *, planning: float | None) -> None:
    """Run only the gateway in this process, configured as in the service, until it is terminated.

    ``planning``: meanwhile re-plan 1,000 models, with pauses of this many seconds.
    """
    sys.setswitchinterval(GIL_INTERVAL_S)
    clock, metrics = SystemClock(), Metrics()
    board = Switchboard(
        traffic=TrafficBook(clock=clock),
        listener=Listener(),
        metrics=metrics,
        max_waiting_per_model=256,
        max_wait_s=300.0,
    )
    upstream = Upstream(host="127.0.0.1", port=engine, served_name="m", apis=frozenset({"openai"}))
    board.open("m", upstream)
    gateway = Gateway(
        config=config.Gateway.model_validate({"port": port}),
        ingest=config.Ingest(),
        incoming=Path(tempfile.gettempdir()),
        switchboard=board,
        operations=NoOperations(),  # type: ignore[arg-type]
        metrics=metrics,
        clock=clock,
        links={},
    )
    async with gateway, contextlib.aclosing(PlannerSubprocess(clock=clock)) as subprocess_planner:
        gc.collect()
        gc.freeze()
        if planning is not None:
            await replan(RulePlanner(offload=subprocess_planner), pause_s=planning)
        await asyncio.Event().wait()


async def replan(planner: RulePlanner, *, pause_s: float) -> None:
    """Plan for 1,000 models on 64 devices forever, each time from a new snapshot."""
    snapshot = dict(crowded(random.Random(0)))
    policy = Policy(runtimes={RuntimeName.VLLM: RuntimeRules()})
    question = Question(trigger=Trigger.SWEEP, now=NOW)
    while True:
        await planner.decide(question, Fleet(**snapshot), policy)
        await asyncio.sleep(pause_s)


@contextlib.contextmanager
def process(*command: str, **environ: str) -> Iterator[int]:
    """Run a process within the context; yields its id."""
    started = subprocess.Popen(command, env={**os.environ, **environ}, stdout=subprocess.DEVNULL)
    try:
        yield started.pid
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def engine(folder: Path, port: int) -> contextlib.AbstractContextManager[int]:
    """Run an nginx that answers at once."""
    return _nginx(folder / "engine", ENGINE.format(port=port, answer=ANSWER))


def nginx(folder: Path, engine: int, port: int) -> contextlib.AbstractContextManager[int]:
    """Run a second nginx as a proxy: in one process, the two would not have to wake each other."""
    return _nginx(folder / "proxy", PROXY.format(engine=engine, port=port))


def _nginx(folder: Path, servers: str) -> contextlib.AbstractContextManager[int]:
    folder.mkdir()
    conf = folder / "nginx.conf"
    conf.write_text(NGINX.format(folder=folder, servers=servers))
    return process("nginx", "-c", str(conf), "-p", str(folder))


def modelium(
    engine: int, port: int, *, planning: float | None = None
) -> contextlib.AbstractContextManager[int]:
    """Run the gateway in a separate process."""
    words = ["-m", "bench.gateway", "--serve", str(engine), "--port", str(port)]
    return process(
        sys.executable, *words, *([] if planning is None else ["--planning", str(planning)])
    )


def litellm(folder: Path, engine: int, port: int) -> contextlib.AbstractContextManager[int]:
    """Run LiteLLM's proxy from the environment that tools/env.sh creates."""
    made = subprocess.run(
        [str(ROOT / "tools/env.sh"), "--path", "litellm"],
        check=True,
        capture_output=True,
        text=True,
    )
    home = Path(made.stdout.strip())
    if not home.exists():
        raise SystemExit("LiteLLM's environment is missing: run tools/env.sh litellm")
    conf = folder / "litellm.yaml"
    conf.write_text(LITELLM.format(engine=engine))
    words = ["--config", str(conf), "--host", "127.0.0.1", "--port", str(port)]
    return process(
        str(home / "bin/litellm"),
        *words,
        "--num_workers=1",
        "--telemetry=False",
        LITELLM_LOCAL_MODEL_COST_MAP="True",
        LITELLM_LOG="ERROR",
        LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY="true",
    )


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [s.getsockname()[1] for s in sockets]


def reachable(port: int) -> None:
    """Wait up to `START_S` until a process listens on ``port``."""
    until = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if time.monotonic() > until:
            raise SystemExit(f"nothing listens on port {port} after {START_S:.0f} s")
        time.sleep(0.05)


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("/proc has no VmRSS: this benchmark needs Linux")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that all threads of a process have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
