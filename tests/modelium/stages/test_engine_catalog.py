"""Only engines that the configuration enables are inspected."""

from __future__ import annotations

import sys
from pathlib import Path

from modelium.analysis import read_catalog
from modelium.config import Config
from modelium.stages.engine_catalog import engines


def test_nothing_is_known_of_engines_that_are_not_configured() -> None:
    assert engines(Config()) == read_catalog(vllm=None, ray_python=None)


def test_a_command_that_does_not_exist_is_no_engine() -> None:
    given = {"enabled": True, "executable": "no-such-command"}
    assert engines(Config.model_validate({"vllm": given})) == read_catalog(
        vllm=None, ray_python=None
    )


def test_the_interpreter_of_the_replicas_is_inspected() -> None:
    given = {"enabled": True, "python": sys.executable}
    found = engines(Config.model_validate({"ray_serve": given}))
    assert found == read_catalog(vllm=None, ray_python=Path(sys.executable))
