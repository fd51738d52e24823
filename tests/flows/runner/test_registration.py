"""prefect.yaml is the one truth, for the service and for Prefect's own CLI."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import PrefectClient
from prefect.flows import load_flow_from_entrypoint

from flows.runner.queues import SLOTS
from flows.runner.registration import MANIFEST
from flows.runner.service import PrefectService
from flows.table import FLOWS
from tests.flows.conftest import Scenes, only_run, shell

ENTRIES = yaml.safe_load(MANIFEST.read_text())["deployments"]


def test_there_is_a_deployment_for_each_flow() -> None:
    assert {entry["name"] for entry in ENTRIES} == set(FLOWS)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["name"])
def test_entrypoints_are_dotted_paths_of_the_flows(entry: dict[str, str]) -> None:
    assert load_flow_from_entrypoint(entry["entrypoint"]) is FLOWS[entry["name"]]  # type: ignore[index]


def test_the_worker_has_slots_in_every_queue() -> None:
    assert {entry["work_pool"]["work_queue_name"] for entry in ENTRIES} == set(SLOTS)


@pytest.mark.real
async def test_the_cli_deploys_all_of_it(
    home: PrefectService, client: PrefectClient, api_url: str, tmp_path: Path
) -> None:
    before = {d.name: d.id for d in await client.read_deployments()}
    code, output = await shell(
        *("--no-prompt", "deploy", "--all", "--prefect-file", str(MANIFEST)),
        PREFECT_API_URL=api_url,
        PREFECT_HOME=str(tmp_path),
    )
    assert code == 0, output
    after = await client.read_deployments()
    assert {d.name: d.id for d in after} == before
    assert all(d.work_pool_name == "modelium" for d in after)


@pytest.mark.real
async def test_a_shell_starts_a_run(
    home: PrefectService, scenes: Scenes, client: PrefectClient, api_url: str, tmp_path: Path
) -> None:
    # Without --watch, which waits for ever for a run that ended before it looked.
    code, output = await shell(
        *("deployment", "run", "load/load", "--param", "model=from-a-shell"),
        PREFECT_API_URL=api_url,
        PREFECT_HOME=str(tmp_path),
    )
    assert code == 0, output
    run = await only_run(client, "load from-a-shell")
    assert run.state is not None
    assert run.state.is_completed()
    assert scenes.seen("load") == [
        {"model": "from-a-shell", "decision": None, "trigger": "operator"}
    ]
