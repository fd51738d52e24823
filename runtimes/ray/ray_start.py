"""Runs `ray start`, and ends by their mark the processes that it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelium.errors import Unavailable
from modelium.ports import Clock
from runtimes.process.fresh_file import fresh_file
from runtimes.ray.cluster_record import MARK, marked
from runtimes.ray.failure_message import start_failure

TERM_S = 2.0
"""Grace between SIGTERM and SIGKILL; the processes have nothing to save."""
KILL_S = 15.0
"""A process that survives SIGKILL for this long hangs in the kernel (lost GPU, NFS)."""
OBJECT_STORE_BYTES = 78_643_200
"""Close to Ray's minimum: requests and responses are small, and /dev/shm may be, too."""
INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
INHERITED_PREFIXES = ("LC_", "LANG", "CUDA_HOME", "CUDA_PATH", "NVIDIA_", "SSL_CERT")
GPUS = Path("/proc/driver/nvidia/gpus")
COUNTERS_PER_GPU = 8
"""Logical GPUs per real one. Modelium places and pins the models. Ray only counts, and it packs in
another order: with the exact number it could refuse what Modelium has booked."""
REPORT_MS = 2000
"""How often workers report their counters. Ray's default of 10 s lags behind the control loop."""


def inherited() -> dict[str, str]:
    """Return what the processes of a cluster get of this one's environment.

    It is a short list: other variables of Modelium (keys, tokens) must not reach the code of
    models.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name in INHERITED or name.startswith(INHERITED_PREFIXES)
    } | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_metrics_report_interval_ms": str(REPORT_MS)}


def command(*arguments: str) -> list[str]:
    """Return the `ray start` command, as a module: the script on PATH may be of another Ray."""
    gpus = len(list(GPUS.iterdir())) if GPUS.is_dir() else 0
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", *arguments),
        *(f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats"),
        *("--include-log-monitor=false", "--log-style=record", "--log-color=false"),
        *([f"--num-gpus={gpus * COUNTERS_PER_GPU}"] if gpus else []),
    ]


async def run(
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    mark: str,
    work: Path,
    output: Path,
    limit_s: float,
) -> None:
    """Run a command that leaves marked processes.

    Args:
        argv: the command.
        environment: its whole environment, but for the mark.
        mark: value of the variable that all its processes have.
        work: working directory, of the replicas, too.
        output: file for what it prints.
        limit_s: bound of its run.

    Raises:
        Unavailable: it failed or took too long; the message ends with its output.
    """
    # SPT_NOENV: when Ray renames its workers it would otherwise overwrite the mark.
    variables = {**environment, MARK: mark, "SPT_NOENV": "1"}
    with fresh_file(output) as file:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,  # not a pipe: the daemons inherit it and keep it open
            stderr=file,
            env=variables,
            cwd=work,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(limit_s):
                code = await process.wait()
        except TimeoutError as exc:
            raise Unavailable(start_failure(f"took more than {limit_s:.0f} s", output)) from exc
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if code:
        raise Unavailable(start_failure(f"failed ({code})", output))


async def end(mark: str, clock: Clock) -> list[int]:
    """End all processes with ``mark``; return those that survive SIGKILL."""
    started = clock.monotonic()
    while pids := await asyncio.to_thread(marked, mark):
        waited = clock.monotonic() - started
        if waited > TERM_S + KILL_S:
            return pids
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if waited < TERM_S else signal.SIGKILL)
        await clock.sleep(0.2)
    return []
