from __future__ import annotations

from modelium.models import RuntimeName
from modelium.models.runtimes import RUNTIMES


def test_every_runtime_has_its_own_descriptor() -> None:
    assert set(RUNTIMES) == set(RuntimeName)
    assert all(name is runtime.name for name, runtime in RUNTIMES.items())
    assert len({runtime.label for runtime in RUNTIMES.values()}) == len(RUNTIMES)
