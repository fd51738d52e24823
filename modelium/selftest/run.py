"""Runs all checks, one after the other: two engines at once would disturb each other's figures."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping

from modelium import __version__
from modelium.config import Config
from modelium.devices import find_devices, recording
from modelium.errors import ModeliumError
from modelium.models import RuntimeName
from modelium.selftest.gpus import check_gpus
from modelium.selftest.report import Check, SelfTestReport
from modelium.selftest.serving import check_runtime
from modelium.selftest.system import describe


async def run(
    config: Config,
    *,
    only: Collection[RuntimeName] = (),
    environ: Mapping[str, str] = os.environ,
    say: Callable[[str], None] = lambda _text: None,
    show: Callable[[Check], None] = lambda _check: None,
) -> SelfTestReport:
    """Run the self-test and return its report; a check that fails ends only itself.

    Args:
        config: the user's configuration: its enabled runtimes are tried.
        only: the runtimes to try; empty: all that are enabled.
        environ: this process's environment.
        say: told what is being done, for a person who waits.
        show: told each check when it ends.
    """
    checks = []
    async for check in _checks(config, frozenset(only), say):
        checks.append(check)
        show(check)
    return SelfTestReport(
        modelium=__version__,
        at=time.time(),
        system=describe(environ),
        nvml=await asyncio.to_thread(recording.record),
        checks=tuple(checks),
    )


async def _checks(
    config: Config, only: frozenset[RuntimeName], say: Callable[[str], None]
) -> AsyncIterator[Check]:
    say("GPUs: order, identity, memory")
    try:
        devices = await asyncio.to_thread(find_devices, config)
        for check in await asyncio.to_thread(lambda: list(check_gpus(devices))):
            yield check
    except ModeliumError as exc:
        yield Check(name="devices", outcome="failed", detail=str(exc))
        return
    enabled = [name for name, rules in config.policy().runtimes.items() if rules.enabled]
    for runtime in enabled:
        if not only or runtime in only:
            async for check in check_runtime(config, runtime, say=say):
                yield check
