"""What operators are told beside the models."""

from __future__ import annotations

import time

from modelium.control import notices
from modelium.stages.sweeps import Sweeps


def test_a_pause_of_idle_evictions_is_told_with_its_beginning() -> None:
    sweeps = Sweeps(scheduled=True)
    assert notices.of_sweeps(sweeps) == []
    sweeps.pause(1000.0)
    since = time.strftime("%F %T", time.localtime(1000.0))
    assert notices.of_sweeps(sweeps) == [
        f"idle evictions are paused in Prefect since {since}; resume the schedule of evict/evict "
        "there to unload idle models again"
    ]
