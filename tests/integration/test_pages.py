"""README and the tutorial work to the letter: new HOME, empty environment, other folder.

Once from the wheel, which is built and installed as the page says, and once from the checkout.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engines import ROOT, free_port
from tests.integration.pages import Block, Stranger, blocks, commands
from tests.integration.service import eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]

TUTORIAL = (ROOT / "docs/getting-started.md").read_text()
README = (ROOT / "README.md").read_text()
NOT_COPIED = shutil.ignore_patterns(".venv*", ".git", "dist", ".*_cache", "__pycache__")

STAGES = {"ingest", "analyze", "decide", "load", "monitor", "evict"}
FINAL = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}
PLACEHOLDERS = {"NAME": "iris", "PATH": "iris", "USER": "me"}


@pytest.mark.parametrize("installed", ["wheel", "checkout"])
def test_a_stranger_can_follow_the_pages(installed: str, tmp_path: Path) -> None:
    stranger, prefect = arrive(installed, tmp_path)
    *start, remove, down = blocks(TUTORIAL, installed=installed)
    if installed == "checkout":
        install, up = blocks(README, installed=installed)
        at = next(i for i, block in enumerate(start) if block.rule == "background")
        start = [install, Block(text="modelium config check"), up, *start[at + 1 :]]
    try:
        for block in start:
            stranger.do(block)
            if block.rule == "background":
                eventually(lambda: deployed(stranger, prefect) == STAGES, shown=stranger.shown)
        if installed == "checkout":
            *table, rm, trash = rows()
            assert remove.rule == "remove" and remove.text.split("\n")[:2] == [rm, trash]
            for command in table:
                stranger.type(command)
        else:
            assert "ExecStart" in stranger.type("modelium config deploy modelium.service")
            (wheel,) = (tmp_path / "checkout/dist").glob("*.whl")
            assert any(name.endswith(".cdx.json") for name in zipfile.ZipFile(wheel).namelist())
        # README's last load is Prefect's to begin: it must not meet the removal.
        eventually(lambda: loaded(stranger, prefect), shown=stranger.shown)
        stranger.do(remove)
        assert "iris" not in stranger.type("modelium ls")
    finally:
        try:
            stranger.do(down)
        finally:
            stranger.leave()


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
        **{
            k: v
            for k, v in os.environ.items()
            if k.upper().startswith(("UV_", "PIP_", "SSL_", "HTTP"))
        },
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
    """Return the commands of README's table but start and stop, which the pages' blocks are.

    The self-test has tests of its own and wants a machine to itself.
    """
    elsewhere = ("modelium config", "modelium up", "modelium selftest")
    found = [c for c in commands(README) if not c.startswith(elsewhere)]
    assert found[-1] == "modelium down"
    for placeholder, value in PLACEHOLDERS.items():
        found = [
            " ".join(value if word == placeholder else word for word in command.split(" "))
            for command in found
        ]
        found = [command.replace(f"={placeholder}", f"={value}") for command in found]
    return found[:-1]


def deployed(stranger: Stranger, prefect: str) -> set[str]:
    found = asked(stranger, f"{prefect}/deployments/filter", {})
    return {deployment["name"] for deployment in found}


def loaded(stranger: Stranger, prefect: str) -> bool:
    """Whether all runs of the stage have ended, and one was completed under its name."""
    wanted = {"deployments": {"name": {"any_": ["load"]}}}
    runs = asked(stranger, f"{prefect}/flow_runs/filter", wanted)
    ends = {(run["name"], run["state_type"]) for run in runs}
    return ("load iris", "COMPLETED") in ends and {end for _, end in ends} <= FINAL


def asked(stranger: Stranger, url: str, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what Prefect answers to whom it knows, nothing while it starts or is overloaded."""
    found = stranger.type("modelium prefect env --json")
    auth = json.loads(found).get("PREFECT_API_AUTH_STRING", ":")
    user, _, password = auth.partition(":")
    try:
        answer = httpx.post(url, json=wanted, auth=(user, password), trust_env=False, timeout=60)
    except httpx.TransportError:
        return []
    return [] if answer.is_server_error else list(answer.raise_for_status().json())
