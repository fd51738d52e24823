"""Runs `cuda_probe` as child processes."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelium.errors import Unavailable

PROBE = Path(__file__).with_name("cuda_probe.py")
DEADLINE_S = 120.0
"""The first use of a GPU may load the driver, which takes seconds on large machines."""


def devices(environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the GPUs in the order in which CUDA numbers them under ``environment``.

    Each has ``index``, ``name``, ``uuid``, ``pci`` and ``total_bytes``.

    Raises:
        Unavailable: there is no CUDA driver, or it does not work.
    """
    with _probe("list", environment=environment) as child:
        return list(_answer(child)["devices"])


@contextmanager
def holding(index: int, size: int, environment: Mapping[str, str]) -> Iterator[int]:
    """Hold ``size`` bytes on a GPU while the body runs; yields the process id.

    Raises:
        Unavailable: CUDA refuses it.
    """
    with _probe("hold", str(index), str(size), environment=environment) as child:
        _answer(child)
        yield child.pid


@contextmanager
def _probe(*arguments: str, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-I", str(PROBE), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**_base(), **environment},
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def _base() -> dict[str, str]:
    """Return our environment without what selects or orders GPUs."""
    return {k: v for k, v in os.environ.items() if not k.startswith("CUDA_")}


def _answer(child: subprocess.Popen[str]) -> dict[str, Any]:
    """Read the probe's one line."""
    assert child.stdout is not None  # noqa: S101 - a pipe, see `_probe`
    readable, _, _ = select.select([child.stdout], [], [], DEADLINE_S)
    if not readable:
        raise Unavailable(f"CUDA did not answer within {DEADLINE_S:.0f} s")
    line = child.stdout.readline()
    answer: dict[str, Any] = json.loads(line) if line else {"error": "the process died"}
    if "error" in answer:
        raise Unavailable(f"CUDA: {answer['error']}")
    return answer
