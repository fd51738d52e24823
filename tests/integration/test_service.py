"""A dropped model is served, on real parts: Prefect server, Ray Serve, gateway, CLI."""

import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from runtimes.process import proc
from tests.integration.service import Service
from tests.samples import custom_application, magika_onnx, tiny_onnx

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]


def junk(folder: Path) -> None:
    """What no runtime can serve."""
    folder.mkdir(parents=True)
    (folder / "readme.txt").write_text("hello")


def hanging(folder: Path) -> None:
    """An application that is never built."""
    custom_application(folder, code="import time\n\n\ndef build(args):\n    time.sleep(10**6)\n")


def infer(service: Service, model: str) -> httpx.Response:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    url = f"{service.gateway}/v2/models/{model}/infer"
    return httpx.post(url, json=body, timeout=180, trust_env=False)


def dropped(service: Service, model: str) -> None:
    """Drop a model and wait until it serves."""
    service.put_in(model, write=tiny_onnx)
    service.until(model, "ready")


def recorded(service: Service, model: str) -> dict[str, dict[str, Any]]:
    """The completed runs of ``model`` by stage, as far as Prefect has them."""
    return {
        stage: run
        for run in service.runs()
        for stage in ("ingest", "analyze", "decide", "load")
        if run["name"] == f"{stage} {model}" and run["state_type"] == "COMPLETED"
    }


def completed_since(service: Service, instant: str) -> bool:
    """Whether Prefect answers and has a completed run that began after ``instant`` (ISO 8601)."""
    try:
        runs = service.runs()
    except httpx.TransportError:
        return False
    return any(
        run["state_type"] == "COMPLETED" and (run["start_time"] or "") > instant for run in runs
    )


def test_a_dropped_model_answers(service: Service) -> None:
    magika_onnx(service.incoming / "magika")
    service.until("magika", "ready")
    meta = httpx.get(f"{service.gateway}/v2/models/magika", trust_env=False, timeout=30).json()
    assert meta["inputs"]


def test_every_stage_is_a_recorded_run(service: Service) -> None:
    dropped(service, "recorded")
    # A stage never waits long for Prefect: on a busy machine the record comes after it.
    service.eventually(lambda: len(recorded(service, "recorded")) == 4)
    runs = recorded(service, "recorded")
    assert sorted(runs) == ["analyze", "decide", "ingest", "load"], service.log()
    assert {"model:recorded", "runtime:ray_serve"} <= set(runs["load"]["tags"])


def test_the_cli_lists_explains_unloads_and_loads(service: Service) -> None:
    dropped(service, "cli-model")
    assert "cli-model" in {row["name"] for row in service.cli("ls")}
    assert service.cli("unload", "cli-model")["state"] == "done"
    assert service.row("cli-model")["state"] == "unloaded"
    assert service.cli("plan", "cli-model")["actions"][0]["action"] == "load"
    assert service.row("cli-model")["state"] == "unloaded"
    assert service.cli("load", "cli-model")["state"] == "done"
    explained = service.cli("explain", "cli-model")
    assert [d["plan"]["trigger"] for d in explained["decisions"]].count("operator") == 2


def test_a_request_for_an_unloaded_model_waits_for_it(service: Service) -> None:
    dropped(service, "demanded")
    service.cli("unload", "demanded")
    answer = infer(service, "demanded")
    assert answer.status_code == 200, (answer.text, service.log())
    assert answer.json()["outputs"][0]["data"] == [10.0, 10.0, 10.0]
    assert service.row("demanded")["state"] == "ready"


def test_keys_are_issued_listed_and_revoked_by_the_cli(service: Service) -> None:
    dropped(service, "keyed")
    issued = service.cli("keys", "create", "app", "--team", "prod", "--model", "other")
    bearer = {"Authorization": f"Bearer {issued['secret']}"}
    url = f"{service.gateway}/v2/models/keyed/infer"
    refused = httpx.post(url, json={}, headers=bearer, timeout=60, trust_env=False)
    assert (refused.status_code, refused.json()["error"]) == (403, "this key may not use keyed")
    listed = {key["id"]: key for key in service.cli("keys", "list")}
    assert listed[issued["key"]["id"]]["team"] == "prod"
    assert service.cli("keys", "revoke", issued["key"]["id"])["revoked_at"]
    ended = httpx.post(url, json={}, headers=bearer, timeout=60, trust_env=False)
    assert ended.status_code == 401


def test_a_refused_drop_is_kept_with_its_reason(service: Service) -> None:
    service.put_in("junk", write=junk)
    kept = service.folder / "rejected" / "junk"
    service.eventually((kept / "reason.json").exists)
    assert (kept / "junk" / "readme.txt").read_text() == "hello", service.log()


def test_an_application_of_the_drops_own_code_runs_once_it_is_approved(service: Service) -> None:
    service.put_in("own", write=custom_application)
    kept = service.folder / "rejected" / "own" / "reason.json"
    service.eventually(kept.exists)
    assert "have an operator approve `remote-code`" in kept.read_text()
    assert service.cli("approve", "own")["state"] == "done"
    row = service.until("own", "ready")
    assert (row["runtime"], row["booked_bytes"]) == ("ray_serve", 2**28)
    url = f"{service.gateway}/models/own/any/where?x=1"
    answer = httpx.put(url, content="hi", timeout=60, trust_env=False)
    assert answer.status_code == 200, (answer.text, service.log())
    assert answer.json()["path"] == "/any/where" and answer.json()["body"] == "hi"
    chat = httpx.post(
        f"{service.gateway}/v1/chat/completions",
        json={"model": "own"},
        timeout=60,
        trust_env=False,
    )
    assert chat.json()["path"] == "/v1/chat/completions"
    issued = service.cli("keys", "create", "stranger", "--model", "other")
    bearer = {"Authorization": f"Bearer {issued['secret']}"}
    refused = httpx.get(url, headers=bearer, timeout=60, trust_env=False)
    assert refused.status_code == 403
    service.eventually(lambda: 'modelium_model_qps{gpu="' in service.exposed())
    assert service.cli("unload", "own")["state"] == "done"


def test_an_aborted_load_ends_as_a_recorded_run_and_is_no_failure(service: Service) -> None:
    service.put_in("hangs", write=hanging)
    service.eventually((service.folder / "rejected" / "hangs" / "reason.json").exists)
    assert service.cli("approve", "hangs")["state"] == "done"
    service.eventually(lambda: "hangs: building the application" in service.full_log())
    assert service.cli("unload", "hangs")["state"] == "done"
    row = service.row("hangs")
    assert (row["state"], row["booked_bytes"]) == ("unloaded", 0), row
    service.eventually(lambda: "load" in recorded(service, "hangs"))
    message = recorded(service, "hangs")["load"]["state"]["message"]
    assert message == "cancelled: an operator aborted the load"


def test_prefect_deployments_load_and_evict(service: Service) -> None:
    dropped(service, "by-prefect")
    environ = {**service.environ, **service.cli("prefect", "env")}
    assert environ["PREFECT_API_URL"] == service.prefect_api
    prefect = shutil.which("prefect", path=os.path.dirname(sys.executable))
    assert prefect is not None
    unload = [prefect, "deployment", "run", "evict/evict", "--param", 'models=["by-prefect"]']
    subprocess.run(unload, env=environ, check=True, capture_output=True, timeout=120)
    service.until("by-prefect", "unloaded")
    load = [prefect, "deployment", "run", "load/load", "--param", "model=by-prefect"]
    subprocess.run(load, env=environ, check=True, capture_output=True, timeout=120)
    service.until("by-prefect", "ready")


def test_metrics_have_the_seeds_names_and_labels(service: Service) -> None:
    dropped(service, "measured")
    assert infer(service, "measured").status_code == 200
    wanted = (
        'modelium_model_qps{gpu="',
        'modelium_model_latency{gpu="',
        'modelium_gpu_memory_used{gpu="',
        'modelium_gpu_utilization{gpu="',
        'modelium_model_idle_seconds{model="measured"}',
    )
    service.eventually(lambda: all(name in service.exposed() for name in wanted))
    gateway = httpx.get(f"{service.gateway}/metrics", trust_env=False, timeout=20)
    assert "modelium_model_qps" in gateway.text


def test_the_gateway_serves_on_when_prefect_is_killed(service: Service) -> None:
    dropped(service, "survivor")
    port = httpx.URL(service.prefect_api).port
    pids = [
        pid
        for pid, process in proc.snapshot().items()
        if process.alive
        and {b"flows.runner.server", str(port).encode()} <= set(proc.command_line(pid).split(b"\0"))
    ]
    assert pids, "the embedded server is a process of its own"
    killed_at = datetime.now(UTC).isoformat()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert infer(service, "survivor").status_code == 200
    assert service.cli("unload", "survivor")["state"] == "done"
    assert service.cli("load", "survivor")["state"] == "done"
    assert infer(service, "survivor").status_code == 200
    # Its server is started again, and other tests need it.
    service.eventually(lambda: completed_since(service, killed_at))
