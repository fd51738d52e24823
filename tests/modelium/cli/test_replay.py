from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from agents.replay.baselines import BASELINES
from modelium.cli.replay import register
from modelium.models import (
    GIB,
    MeasuredLoad,
    ModelFormat,
    ModelProfile,
    Priority,
    RuntimeName,
    Task,
)
from modelium.store import Store
from modelium.traffic.request_log import LoggedRequest
from tests.agents.replay.small_traces import trace_files


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return trace_files(tmp_path)


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return app


def test_the_command_prints_json(app: typer.Typer, files: tuple[Path, Path]) -> None:
    requests, models = map(str, files)
    given = ["replay", requests, "--models", models, "--devices", "1x60", "--json"]
    out = CliRunner().invoke(app, [*given, "--policy", "rules", "--policy", "lru"])
    assert out.exit_code == 0
    rows = json.loads(out.stdout)["policies"]
    assert list(rows) == ["rules", "lru"]
    assert rows["lru"]["cold_starts"] == 2  # the load of the first outlasts the third request
    assert {"load_seconds", "prewarm_load_seconds", "evictions", "slo_attainment"} <= set(
        rows["rules"]
    )


def test_the_command_prints_every_policy_as_a_table(
    app: typer.Typer, files: tuple[Path, Path]
) -> None:
    requests, models = map(str, files)
    out = CliRunner().invoke(
        app,
        ["replay", requests, "--models", models, "--devices", "1x60", "--cache-only"],
        env={"COLUMNS": "80"},
    )
    assert out.exit_code == 0
    assert "…" not in out.stdout
    for policy in ("rules", *BASELINES):
        assert policy in out.stdout


def test_an_unknown_policy_is_an_error_that_lists_the_known_ones(
    app: typer.Typer, files: tuple[Path, Path]
) -> None:
    requests, models = map(str, files)
    given = ["replay", requests, "--models", models, "--devices", "1x60"]
    out = CliRunner().invoke(app, [*given, "--policy", "fifo"])
    assert out.exit_code == 2
    assert "fifo" in out.output and "lru" in out.output


def store_with_log(folder: Path) -> Path:
    """A configuration whose store saw two models asked in turns; returns its file."""
    config = folder / "modelium.yaml"
    config.write_text(
        f"orchestration: {{model_repository: {folder}/r, incoming_directory: {folder}/i}}"
    )
    (folder / "state").mkdir()
    store = Store.open(f"sqlite:///{folder}/state/modelium.db", now=time.time)
    profile = ModelProfile(
        format=ModelFormat.ONNX, architecture="onnx", task=Task.GENERIC, weight_bytes=GIB
    )
    for name in ("a", "b", "unasked"):
        store.register(
            name, path=folder / name, digest=name, team=None, priority=Priority.LOW,
            priority_ceiling=Priority.HIGH, pinned=False,
        )  # fmt: skip
        store.lineage.set_profile(name, 1, profile)
    load = MeasuredLoad(
        runtime=RuntimeName.TRITON, device_kind="H100", settings_digest="d",
        per_device_bytes=6 * GIB, load_s=9.0, at=1.0,
    )  # fmt: skip
    store.history.record_memory({}, {"a": load, "b": load})
    now = time.time()
    lines = [LoggedRequest(now - 4000 + 60 * i, "ab"[i % 2], 1, 1, 0.5) for i in range(20)]
    store.history.log(
        [
            *lines,
            LoggedRequest(now - 30 * 86400, "b", 1, 1, 0.5),
            LoggedRequest(now, "gone", 1, 1, 1),
        ]
    )
    store.close()
    return config


def test_the_request_log_of_a_store_is_replayed(tmp_path: Path) -> None:
    given = ["replay", "--from-store", "--config", str(store_with_log(tmp_path)), "--json"]
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)

    def cold(devices: str, *more: str) -> dict[str, int]:
        done = CliRunner().invoke(app, [*given, "--devices", devices, *more])
        assert done.exit_code == 0, done.output
        policies = json.loads(done.stdout)["policies"]
        assert {r["requests"] for r in policies.values()} == {20 if not more else 21}
        return {name: r["cold_starts"] for name, r in policies.items()}

    assert cold("1x13")["lru"] == 2, "both fit as they were measured"
    assert cold("1x11")["lru"] == 20, "they take turns"
    assert cold("1x13", "--days", "40")["lru"] == 2


def test_a_store_without_requests_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    config = store_with_log(tmp_path)
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    given = ["replay", "--from-store", "--devices", "1x60", "--config", str(config)]
    done = CliRunner().invoke(app, [*given, "--days", "0"])
    assert done.exit_code == 2 and "request_log" in done.output
    (tmp_path / "state" / "modelium.db").unlink()
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 2 and "there is no store" in done.output
    done = CliRunner().invoke(app, ["replay", "--devices", "1x60"])
    assert done.exit_code == 2 and "--from-store" in done.output
