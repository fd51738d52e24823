"""Other distributions with packages of our names are named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelium.cli.shadows import shadows

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


def test_nothing_is_in_the_way_here() -> None:
    assert list(shadows()) == []


def test_a_distribution_that_shares_a_package_is_named() -> None:
    (sentence,) = shadows(
        providers={"agents": ["modelium", "openai-agents"], "flows": ["modelium"]}
    )

    assert "agents is also in the distribution openai-agents" in sentence
    assert "pipx" in sentence


def test_a_package_found_elsewhere_is_named(tmp_path: Path) -> None:
    sentences = list(shadows(home=tmp_path, providers={}))

    assert len(sentences) == 3
    assert str(ROOT) in sentences[0]


def test_the_command_names_what_hides_its_modules_instead_of_a_traceback(tmp_path: Path) -> None:
    """`agents` of another distribution comes first on the path, and has no `agents.replay`."""
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents/__init__.py").write_text("")
    record = tmp_path / "openai_agents-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: openai-agents\nVersion: 1.0\n")
    (record / "RECORD").write_text("agents/__init__.py,,\n")

    done = subprocess.run(
        [sys.executable, "-m", "modelium", "--version"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 1
    assert "agents is also in the distribution openai-agents" in done.stderr
    assert "Traceback" not in done.stderr
