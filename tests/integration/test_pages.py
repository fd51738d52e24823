"""README and the tutorial work to the letter: new HOME, empty environment, other folder.

Once from the wheel, which is built and installed as the page says, and once from the checkout.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import httpx
import pytest

from tests.engines import ROOT, free_port
from tests.integration.pages import Block, Stranger, blocks, commands

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

TUTORIAL = (ROOT / "docs/getting-started.md").read_text()
README = (ROOT / "README.md").read_text()
NOT_COPIED = shutil.ignore_patterns(".venv*", ".git", "dist", ".*_cache", "__pycache__")

PLACEHOLDERS = {"NAME": "iris", "PATH": "iris", "USER": "me"}


@pytest.mark.parametrize("installed", ["wheel", "checkout"])
def test_a_stranger_can_follow_the_pages(installed: str, tmp_path: Path) -> None:
    stranger, prefect = arrive(installed, tmp_path)
    *start, down = blocks(TUTORIAL, installed=installed)
    if installed == "checkout":
        install, up = blocks(README, installed=installed)
        at = next(i for i, block in enumerate(start) if block.rule == "background")
        start = [install, Block(text="modelium config check"), up, *start[at + 1 :]]
    try:
        for block in start:
            stranger.do(block)
        for command in rows():
            stranger.type(command)
        assert deployed(prefect) == {"ingest", "analyze", "decide", "load", "monitor", "evict"}
        assert "load iris" in completed(prefect)
    finally:
        said = stranger.type(down.text)
        stranger.leave()
    assert down.argument in said


def arrive(installed: str, folder: Path) -> tuple[Stranger, str]:
    """Return somebody in a checkout, and the address of the Prefect server to be."""
    tools = folder / "tools"
    tools.mkdir()
    (tools / "uv").symlink_to(ROOT / ".venv/bin/uv")
    checkout = ROOT
    if installed == "wheel":
        checkout = Path(shutil.copytree(ROOT, folder / "checkout", ignore=NOT_COPIED))
    gateway, prefect, metrics, ray = (str(free_port()) for _ in range(4))
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    environ = {
        "PATH": f"{tools}:/usr/local/bin:/usr/bin:/bin",
        "COLUMNS": "200",
        # What saves downloads, and what reaches the package index here.
        "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR") or f"{cache}/uv",
        "UV_PYTHON": sys.executable,
        **{k: v for k, v in os.environ.items() if k.startswith(("UV_", "PIP_", "SSL_", "http"))},
        "RAY_USAGE_STATS_ENABLED": "0",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MODELIUM_GATEWAY__PORT": gateway,
        "MODELIUM_PREFECT__PORT": prefect,
        "MODELIUM_ORCHESTRATION__METRICS__PROMETHEUS_PORT": metrics,
        "MODELIUM_RAY_SERVE__ENDPOINT": f"http://127.0.0.1:{ray}",
    }
    if installed == "checkout":  # README leaves the folders to the default, which is outside HOME
        models = folder / "home/modelium/models"
        environ["MODELIUM_ORCHESTRATION__INCOMING_DIRECTORY"] = str(models / "incoming")
        environ["MODELIUM_ORCHESTRATION__MODEL_REPOSITORY"] = str(models / "repository")
    ports = {"8000": gateway, "4200": prefect}
    stranger = Stranger(folder / "home", cwd=checkout, environ=environ, ports=ports)
    return stranger, f"http://127.0.0.1:{prefect}/api"


def rows() -> list[str]:
    """Return the commands of README's table but start and stop, which the pages' blocks are."""
    found = [c for c in commands(README) if not c.startswith(("modelium config", "modelium up"))]
    assert found[-1] == "modelium down"
    for placeholder, value in PLACEHOLDERS.items():
        found = [
            " ".join(value if word == placeholder else word for word in command.split(" "))
            for command in found
        ]
        found = [command.replace(f"={placeholder}", f"={value}") for command in found]
    return found[:-1]


def deployed(prefect: str) -> set[str]:
    answer = httpx.post(f"{prefect}/deployments/filter", json={}, trust_env=False, timeout=60)
    return {deployment["name"] for deployment in answer.json()}


def completed(prefect: str) -> set[str]:
    answer = httpx.post(f"{prefect}/flow_runs/filter", json={}, trust_env=False, timeout=60)
    return {run["name"] for run in answer.json() if run["state_type"] == "COMPLETED"}
