"""What a `llama-server` build can compute on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from pathlib import Path

from modelium.models import DeviceKind

logger = logging.getLogger(__name__)

DEADLINE_S = 15.0
"""A CUDA build initializes every GPU before it answers."""

HEADING = re.compile(r"^available devices:\s*$", re.IGNORECASE | re.MULTILINE)
DEVICE = re.compile(r"^\s+(?!CPU|BLAS)\w+: ", re.MULTILINE)


async def device_kinds(executable: Path) -> frozenset[DeviceKind] | None:
    """Ask the build which devices it finds; ``None``: it does not know the question."""
    try:
        process = await asyncio.create_subprocess_exec(
            executable,
            "--list-devices",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError:
        return None  # it will not start for a load either, which says why
    try:
        async with asyncio.timeout(DEADLINE_S):
            output, _ = await process.communicate()
    except TimeoutError:
        logger.warning("%s --list-devices did not answer", executable)
        return None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return parse(output.decode(errors="replace")) if process.returncode == 0 else None


def parse(output: str) -> frozenset[DeviceKind] | None:
    """Return what the answer to ``--list-devices`` says; ``None``: it is none."""
    heading = HEADING.search(output)
    if heading is None:
        return None
    return frozenset({"gpu" if DEVICE.search(output[heading.end() :]) else "cpu"})
