from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from agents.replay.baselines import BASELINES
from agents.replay.planner_under_replay import EPOCH, Rehearsal, keepers, replay_policy
from agents.replay.simulation import Result, replay
from agents.replay.traces import ReplayModel, Request, Trace, parse_devices, read
from modelium.cli.replay import register
from modelium.errors import InputError
from modelium.models import (
    GIB,
    MeasuredLoad,
    ModelFormat,
    ModelProfile,
    Priority,
    RuntimeName,
    Task,
)
from modelium.policy import Policy
from modelium.store import Store
from modelium.traffic.request_log import LoggedRequest


def trace(requests: Sequence[tuple[float, str]], **models: tuple[float, float]) -> Trace:
    """Requests of one second at the engine; models by (GiB, load seconds)."""
    names = list(models)
    return Trace(
        models=tuple(
            ReplayModel(name=n, bytes=int(gib * GIB), load_s=load)
            for n, (gib, load) in models.items()
        ),
        requests=tuple(Request(t, names.index(n)) for t, n in requests),
    )


def run(
    what: Trace, policy: str, gib: Sequence[float] = (100,), *, cache_only: bool = True
) -> Result:
    devices = [int(g * GIB) for g in gib]
    (result,) = replay(what, devices, [policy], cache_only=cache_only, keepers=keepers())
    return result


THREE = {"a": (40.0, 10.0), "b": (40.0, 10.0), "c": (40.0, 10.0)}


def cold(requests: str, policy: str, **models: tuple[float, float]) -> int:
    """Cold starts of one request per letter, a minute apart, with room for two of three."""
    what = trace([(i * 60.0, n) for i, n in enumerate(requests)], **(models or THREE))
    return run(what, policy).cold_starts


# --- the baselines do what they say -----------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "requests", "expected"),
    [
        ("lru", "abcb", 3),  # a left for c
        ("lru", "abac", 3),  # b left for c
        ("lru", "abacb", 4),
        ("lfu", "aaabcbc", 5),  # a, asked for most, stays: b and c take turns
        ("llama-swap", "aabba", 3),  # one at a time
        ("belady", "abcab", 4),  # b goes: a is needed first
        ("ollama", "bacb", 3),  # a goes first by its name, though b is older
    ],
)
def test_a_baseline_counts_as_worked_out_by_hand(policy: str, requests: str, expected: int) -> None:
    assert cold(requests, policy) == expected


def test_ttl_lets_go_after_five_idle_minutes() -> None:
    requests = [(0.0, "a"), (299.0, "a"), (600.0, "a")]
    assert run(trace(requests, **THREE), "ttl").cold_starts == 2
    assert run(trace(requests, **THREE), "lru").cold_starts == 1


def test_gdsf_keeps_what_is_dear_per_byte() -> None:
    models = {"dear": (40.0, 100.0), "cheap": (40.0, 1.0), "c": (40.0, 10.0)}
    requests = [(0.0, "dear"), (1.0, "cheap"), (2.0, "c"), (3.0, "dear")]
    assert run(trace(requests, **models), "gdsf").load_seconds == 111
    assert run(trace(requests, **models), "lru").load_seconds == 211


def test_no_policy_beats_the_offline_one_on_equal_models() -> None:
    requests = "abcacbbacabbcacbabcaabccba" * 8
    least = cold(requests, "belady")
    for policy in keepers():
        assert cold(requests, policy) >= least


# --- the simulation ---------------------------------------------------------------------------


def test_a_request_waits_for_the_load_and_later_ones_do_not() -> None:
    what = trace([(0.0, "a"), (4.0, "a"), (100.0, "a")], a=(10.0, 10.0))
    for policy in ("lru", "rules"):
        result = run(what, policy, cache_only=False)
        assert (result.cold_starts, result.wait_p50_s, result.wait_p99_s) == (1, 6.0, 10.0)


def test_loads_on_one_device_follow_each_other_and_on_two_do_not() -> None:
    what = trace([(0.0, "a"), (0.0, "b")], a=(10.0, 10.0), b=(10.0, 10.0))
    assert run(what, "lru", (100,), cache_only=False).wait_p99_s == 20
    # Best fit would put both on the first device; here only one fits on each.
    assert run(what, "lru", (15, 15), cache_only=False).wait_p99_s == 10


@pytest.mark.parametrize("policy", list(keepers()))
def test_every_policy_serves_every_request_and_overbooks_nothing(policy: str) -> None:
    requests = [(i * 0.7, "abcdefgh"[(i * i + i // 7) % 8]) for i in range(400)]
    models = {n: (10.0 + 7 * i, 2.0 + i) for i, n in enumerate("abcdefgh")}
    result = run(trace(requests, **models), policy, (64, 64), cache_only=False)
    assert result.slo_attainment is not None
    assert result.requests == 400
    assert result.unplaceable == 0
    assert result.cold_starts - result.evictions <= 8
    assert 0 < result.occupancy <= 1


@pytest.mark.parametrize("policy", ["lru", "rules"])
def test_a_busy_model_is_not_evicted_for_another(policy: str) -> None:
    what = Trace(
        models=(
            ReplayModel(name="a", bytes=60 * GIB, load_s=1.0),
            ReplayModel(name="b", bytes=60 * GIB, load_s=1.0),
        ),
        requests=(Request(0.0, 0, 50.0), Request(10.0, 1, 1.0)),
    )
    result = run(what, policy, cache_only=False)
    # b waits until a's request has ended at 51 s, then for its own load.
    assert result.wait_p99_s == pytest.approx(42.0)


@pytest.mark.parametrize("policy", ["lru", "rules"])
def test_a_model_larger_than_a_device_is_split(policy: str) -> None:
    what = trace([(0.0, "a"), (5.0, "b"), (90.0, "a")], a=(100.0, 10.0), b=(30.0, 5.0))
    result = run(what, policy, (64, 64), cache_only=False)
    assert (result.cold_starts, result.unplaceable) == (3, 0)


@pytest.mark.parametrize("policy", ["lru", "rules"])
@pytest.mark.parametrize("cache_only", [True, False])
def test_a_model_that_fits_nowhere_is_counted_and_stops_nothing(
    policy: str, cache_only: bool
) -> None:
    what = trace([(0.0, "huge"), (1.0, "a")], huge=(900.0, 10.0), a=(10.0, 1.0))
    result = run(what, policy, cache_only=cache_only)
    assert (result.unplaceable, result.cold_starts) == (1, 1)


def test_two_runs_agree() -> None:
    what = trace([(i * 11.0, "abcabbca"[i % 8]) for i in range(200)], **THREE)
    first, second = (run(what, "rules", cache_only=False) for _ in range(2))
    for field in ("cold_starts", "load_seconds", "evictions", "wait_p99_s", "occupancy"):
        assert getattr(first, field) == getattr(second, field)


def test_the_rules_learn_a_timer_that_lru_does_not_see() -> None:
    requests = sorted(
        [(t * 600.0, "timer") for t in range(100)]
        + [
            (t * 600.0 + 60 + 30 * i, f"once{(t * 5 + i) % 40}")
            for t in range(100)
            for i in range(5)
        ]
    )
    models = {"timer": (40.0, 30.0), **{f"once{i}": (30.0, 30.0) for i in range(40)}}
    what = trace(requests, **models)
    assert run(what, "rules").cold_starts < run(what, "lru").cold_starts


def test_auto_unload_is_a_row_of_its_own() -> None:
    what = trace([(0.0, "a"), (5000.0, "a")], **THREE)
    rows = replay(
        what,
        [100 * GIB],
        ["rules", "rules+ttl"],
        cache_only=True,
        keepers=keepers(auto_unload_after_s=3600),
    )
    assert [(r.policy, r.cold_starts) for r in rows] == [("rules", 1), ("rules+ttl", 2)]


def test_loads_ahead_save_cold_starts_and_are_paid_for() -> None:
    timer = trace([(i * 600.0, "a") for i in range(20)], a=(40.0, 10.0))
    results = {}
    for name, sweep_s in (("waits", math.inf), ("ahead", 60.0)):
        idle_out = replay_policy(auto_unload_after_s=400.0)

        def keeper(what: Trace, sweep_s: float = sweep_s, policy: Policy = idle_out) -> Rehearsal:
            return Rehearsal(what, policy=policy, sweep_s=sweep_s)

        (results[name],) = replay(timer, [50 * GIB], ["r"], cache_only=True, keepers={"r": keeper})
    assert results["waits"].cold_starts == 20
    ahead = results["ahead"]
    assert ahead.cold_starts <= 10
    assert ahead.prewarm_load_seconds >= 10.0 * (20 - ahead.cold_starts)
    assert ahead.load_seconds == 10.0 * ahead.cold_starts + ahead.prewarm_load_seconds


def test_what_is_asked_at_the_same_time_each_day_is_loaded_ahead_from_the_fourth_day_on() -> None:
    half_past_two = 2.5 * 3600 - EPOCH % 86_400
    daily = trace([(half_past_two + d * 86_400.0, "a") for d in range(1, 8)], a=(40.0, 10.0))

    def keeper(what: Trace) -> Rehearsal:
        idle_out = replay_policy(auto_unload_after_s=3600.0)
        return Rehearsal(what, policy=idle_out, sweep_s=60.0)

    (result,) = replay(daily, [50 * GIB], ["r"], cache_only=True, keepers={"r": keeper})
    assert result.cold_starts == 3
    assert result.prewarm_load_seconds == 4 * 10.0


def test_nothing_leaves_for_a_load_ahead() -> None:
    requests = [(i * 600.0, "a") for i in range(20)] + [(i * 30.0, "b") for i in range(400)]
    what = trace(sorted(requests), a=(40.0, 10.0), b=(40.0, 10.0))
    assert run(what, "rules+prewarm", (50,)).prewarm_load_seconds == 0


# --- reading and the command ------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    requests, models = tmp_path / "trace.csv", tmp_path / "models.csv"
    requests.write_text(
        "t_s,model,prompt_tokens,output_tokens\n5,org/b,,\n0,a,800,4\n9,a,,\n", encoding="utf-8"
    )
    models.write_text(
        "model,footprint_gib,load_s,priority\na,50,10,high\norg/b,20,5,\n", encoding="utf-8"
    )
    return requests, models


def test_requests_are_sorted_and_timed_by_their_tokens(files: tuple[Path, Path]) -> None:
    got = read(*files)
    assert [(r.t_s, r.model) for r in got.requests] == [(0, 0), (5, 1), (9, 0)]
    assert got.requests[0].service_s == pytest.approx(0.2)
    assert got.models[0].priority == "high"


@pytest.mark.parametrize(
    ("requests", "models", "says"),
    [
        ("t_s\n1\n", "model,footprint_gib,load_s\na,1,1\n", "no column model"),
        ("t_s,model\n1,b\n", "model,footprint_gib,load_s\na,1,1\n", "'b' is not in"),
        ("t_s,model\nx,a\n", "model,footprint_gib,load_s\na,1,1\n", "'x' is no number"),
        ("t_s,model\n1,a\n", "model,footprint_gib,load_s\na,0,1\n", "over 0"),
        ("t_s,model\nnan,a\n", "model,footprint_gib,load_s\na,1,1\n", "'nan' is no number"),
        ("t_s,model\n1,a\n", "model,footprint_gib,load_s,priority\na,1,1,top\n", "high, medium"),
        ("t_s,model\n", "model,footprint_gib,load_s\na,1,1\n", "no requests"),
    ],
)
def test_a_bad_file_is_named_with_line_and_reason(
    tmp_path: Path, requests: str, models: str, says: str
) -> None:
    (tmp_path / "t.csv").write_text(requests)
    (tmp_path / "m.csv").write_text(models)
    with pytest.raises(InputError, match=says):
        read(tmp_path / "t.csv", tmp_path / "m.csv")


def test_devices_are_counts_and_sizes() -> None:
    assert parse_devices("2x80, 1x24") == (80 * GIB, 80 * GIB, 24 * GIB)
    for wrong in ("", "80", "2x", "0x80", "2x-1", "2xinf"):
        with pytest.raises(InputError, match="2x80"):
            parse_devices(wrong)


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
        env={"COLUMNS": "160"},
    )
    assert out.exit_code == 0
    for policy in ("rules", *BASELINES):
        assert policy in out.stdout


def test_the_command_says_what_is_wrong(app: typer.Typer, files: tuple[Path, Path]) -> None:
    requests, models = map(str, files)
    given = ["replay", requests, "--models", models, "--devices", "1x60"]
    out = CliRunner().invoke(app, [*given, "--policy", "fifo"])
    assert out.exit_code == 2
    assert "fifo" in out.output and "lru" in out.output


# --- Modelium's own request log ---------------------------------------------------------------


def lived(folder: Path) -> Path:
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
        store.set_profile(name, 1, profile)
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


def test_the_store_s_own_requests_are_replayed(tmp_path: Path) -> None:
    given = ["replay", "--from-store", "--config", str(lived(tmp_path)), "--json"]
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


def test_a_store_without_requests_says_what_to_do(tmp_path: Path) -> None:
    config = lived(tmp_path)
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
