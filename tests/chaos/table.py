"""All faults, in the order in which they are tried."""

from __future__ import annotations

from tests.chaos import kills
from tests.chaos.trial import Fault

FAULTS: dict[str, Fault] = {
    "kill": kills.kill,
    "kill-publishing": kills.kill_publishing,
    "kill-loading": kills.kill_loading,
    "kill-evicting": kills.kill_evicting,
    "kill-engine": kills.kill_engine,
    "pause": kills.pause,
    "pause-engine": kills.pause_engine,
}
