"""All faults, in the order in which they are tried."""

from __future__ import annotations

from tests.chaos import engines, kills, servers, shortages
from tests.chaos.trial import Fault

SERVERS_EVERY = 10
"""Servers take long to start, so that their faults are tried with every tenth seed."""

SERVERS: dict[str, tuple[Fault, servers.Settings]] = {
    "kill-prefect": (servers.kill_prefect, servers.prefect),
    "kill-triton": (servers.kill_triton, servers.triton),
    "kill-ray": (servers.kill_ray, servers.ray),
}
"""Each with a service of its own, which has that server."""

FAULTS: dict[str, Fault] = {
    "kill": kills.kill,
    "kill-publishing": kills.kill_publishing,
    "kill-loading": kills.kill_loading,
    "kill-evicting": kills.kill_evicting,
    "kill-engine": kills.kill_engine,
    "pause": kills.pause,
    "pause-engine": kills.pause_engine,
    "disk-full": shortages.disk_full,
    "store-locked": shortages.store_locked,
    "half-open": shortages.half_open,
    "slow-bodies": shortages.slow_bodies,
    "engine-hangs": engines.hangs,
    "engine-dies": engines.dies,
    "engine-fails": engines.fails,
    "engine-floods": engines.floods,
}
