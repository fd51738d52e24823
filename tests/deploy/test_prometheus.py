"""A real Prometheus scrapes a real Modelium with fake engine processes.

Its GPUs are those of the fake NVML, which it reads through the real pynvml.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from modelium.traffic.direct_requests import LAG_S
from tests import engines
from tests.deploy.test_files import DEPLOY, queries
from tests.fakes import tiny_llama
from tests.fakes.nvml import GIB, GPU_IS_LOST, FakeGpu, FakeNvml, build
from tests.integration.service import Service, eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

ENGINE = Path(__file__).parents[1] / "fakes" / "engine.py"
QUIET = (
    "modelium_requests_refused_total",
    "modelium_requests_unauthorized_total",
    "modelium_decision_fallbacks_total",
    "modelium_policy_refusals_total",
    "modelium_model_load_failures",
    "modelium_model_restarts_total",
    "prefect_connected",
)
"""Series without samples while nothing fails and Prefect is disabled."""


class Fleet(Service):
    """A Modelium with two GPUs, whose engines are fake processes."""

    def __init__(self, folder: Path, gpus: FakeNvml) -> None:
        self.gpus = gpus
        command = folder / "vllm-command"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {ENGINE} "$@"\n')
        command.chmod(0o755)
        vllm = {
            "enabled": True,
            "executable": str(command),
            "base_port": 0,
            "environment": gpus.environment(),
        }
        super().__init__(
            folder,
            settings={
                "vllm": vllm,
                "prefect": {"enabled": False},
                "teams": {"lab": {}},
                "models": {"one": {"team": "lab"}},
                # The engines are processes of the fake GPUs.
                "sandbox": {"writable": [str(gpus.table)]},
            },
            environ=gpus.environment(),
        )

    def drop(self, model: str, gpu: str) -> None:
        aside = tiny_llama.write(self.folder / "aside" / model, seed=len(model))
        (aside / "fake.json").write_text(f'{{"gpu": "{gpu}", "gpu_bytes": {GIB}}}')
        os.rename(aside, self.incoming / model)
        self.until(model, "ready")

    def ask(self, model: str) -> None:
        body = {"model": model, "prompt": "a"}
        answer = httpx.post(
            f"{self.gateway}/v1/completions", json=body, timeout=60, trust_env=False
        )
        assert answer.status_code == 200, (answer.text, self.log())


class Prometheus:
    """A server with the shipped rules, which scrapes and evaluates every second."""

    def __init__(self, folder: Path, target: str) -> None:
        self.url = f"http://127.0.0.1:{engines.free_port()}"
        rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
        for group in rules["groups"]:
            for rule in group["rules"]:
                rule["for"] = "1s"
        (folder / "alerts.yml").write_text(yaml.safe_dump(rules))
        config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = shutil.which("prometheus")
        assert command, "prometheus is missing: tools/apt.sh prometheus"
        self.log = folder / "prometheus.log"
        self.process = subprocess.Popen(
            [
                command,
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address={self.url.removeprefix('http://')}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=self.log.open("wb"),
        )

    def query(self, expression: str) -> list[dict[str, Any]]:
        asked = {"query": expression}
        answer = httpx.get(f"{self.url}/api/v1/query", params=asked, trust_env=False, timeout=20)
        assert answer.json()["status"] == "success", answer.text
        return list(answer.json()["data"]["result"])

    def snapshot_at(self) -> float:
        """Return the time of the last snapshot of the fleet that was scraped."""
        return float(self.query("modelium_snapshot_timestamp_seconds")[0]["value"][1])

    def snapshot_after(self, moment: float) -> float:
        """Wait for the scrape of a snapshot later than ``moment``; return the snapshot's time."""

        def found() -> float | None:
            at = self.snapshot_at()
            return at if at > moment else None

        at = eventually(found, shown=lambda: (moment, self.snapshot_at()))
        assert at is not None
        return at

    def observed(self) -> float:
        """Wait for the scrape of a snapshot with all past requests; return its time.

        The first snapshot from now on may contain counters that were read earlier; those of the
        second were read after the first.
        """
        return self.snapshot_after(self.snapshot_after(time.time()))

    def firing(self) -> set[str]:
        answer = httpx.get(f"{self.url}/api/v1/alerts", trust_env=False, timeout=20).json()
        alerts = answer["data"]["alerts"]
        return {a["labels"]["alertname"] for a in alerts if a["state"] == "firing"}

    def scraped(self) -> bool:
        try:
            ready = httpx.get(f"{self.url}/-/ready", trust_env=False, timeout=20)
            return ready.is_success and bool(self.query("modelium_snapshot_timestamp_seconds"))
        except httpx.TransportError:
            assert self.process.poll() is None, self.log.read_text()
            return False

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("scraped")
    gpus = FakeNvml(library=build(folder), table=folder / "nvml-table")
    gpus.add(FakeGpu(uuid="GPU-a", utilization=40))
    gpus.add(FakeGpu(uuid="GPU-b", utilization=60))
    service = Fleet(folder, gpus)
    service.start()
    try:
        service.drop("one", "GPU-a")
        # It uses more than was booked; until that is measured, an alert would be correct.
        eventually(lambda: service.row("one")["resident_bytes"] == GIB, shown=service.log)
        service.ask("one")
        yield service
    finally:
        service.down()
    assert service.remains() == []


@pytest.fixture(scope="module")
def prometheus(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    target = fleet.endpoints["metrics"].removeprefix("http://").removesuffix("/metrics")
    server = Prometheus(tmp_path_factory.mktemp("prometheus"), target)
    try:
        eventually(server.scraped, shown=server.log.read_text)
        yield server
    finally:
        server.stop()


def test_every_panel_has_live_data(fleet: Fleet, prometheus: Prometheus) -> None:
    fleet.cli("unload", "one")
    fleet.ask("one")  # a cold start
    used = 'modelium_gpu_memory_used{gpu="0"}'
    eventually(
        lambda: int(prometheus.query(used)[0]["value"][1]) == GIB,
        shown=lambda: prometheus.query(used),
    )
    assert prometheus.query('modelium_gpu_utilization{gpu="0"}')[0]["value"][1] == "0.4"

    def empty() -> list[str]:
        shown = [q.replace("$instance", ".*").replace("$model", ".*") for q in queries()]
        return [q for q in shown if not prometheus.query(q) and not any(n in q for n in QUIET)]

    def filled() -> bool:
        fleet.ask("one")
        return empty() == []

    eventually(filled, shown=empty)


def test_requests_that_bypass_the_gateway_are_counted_and_its_own_are_not(
    fleet: Fleet, prometheus: Prometheus
) -> None:
    def direct() -> int:
        found = prometheus.query('modelium_model_requests_direct_total{model="one"}')
        return int(found[0]["value"][1])

    # Until LAG_S after a request of the gateway ended, one that the engine counts may be the same.
    expired = prometheus.snapshot_after(prometheus.observed() + LAG_S)
    prometheus.snapshot_after(expired)
    before = direct()
    port = json.loads((fleet.state / "vllm" / "one.json").read_text())["port"]
    for _ in range(3):
        body = {"model": "one", "prompt": "a"}
        engine = f"http://127.0.0.1:{port}/v1/completions"
        assert httpx.post(engine, json=body, timeout=20, trust_env=False).status_code == 200
    eventually(lambda: direct() == before + 3, shown=lambda: (before, direct(), fleet.log()))
    for _ in range(5):
        fleet.ask("one")
        prometheus.observed()
        assert direct() == before + 3


def test_a_lost_gpu_fires_an_alert_until_it_is_back(fleet: Fleet, prometheus: Prometheus) -> None:
    assert "ModeliumDeviceUnhealthy" not in prometheus.firing()
    fleet.gpus.change("GPU-b", error=GPU_IS_LOST)
    eventually(lambda: "ModeliumDeviceUnhealthy" in prometheus.firing(), shown=prometheus.firing)
    fleet.gpus.change("GPU-b", error=0)
    eventually(
        lambda: "ModeliumDeviceUnhealthy" not in prometheus.firing(), shown=prometheus.firing
    )


def test_no_alert_fires_while_nothing_fails(fleet: Fleet, prometheus: Prometheus) -> None:
    eventually(lambda: not prometheus.firing(), shown=prometheus.firing)


def test_the_requests_can_be_replayed_afterwards(fleet: Fleet) -> None:
    fleet.ask("one")
    fleet.stop()  # writes the buffered requests to the store
    replayed = fleet.cli("replay", "--from-store", "--devices", "1x80")["policies"]
    assert replayed["rules"]["requests"] >= 1
    assert replayed["rules"]["unplaceable"] == 0
