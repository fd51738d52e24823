"""The files in deploy/ are well formed and use only series that Modelium has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from modelium.metrics import Metrics
from modelium.models import Fleet

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
SUFFIX = re.compile(r"_(bucket|sum|count|total)$")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> Iterator[str]:
    """Yield every query of the dashboard."""
    for panel in panels():
        for target in panel["targets"]:
            yield target["expr"]


def promtool(*arguments: str) -> str:
    command = shutil.which("promtool")
    assert command, "promtool is missing: tools/apt.sh prometheus"
    done = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.real
def test_prometheus_accepts_the_configuration_and_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "config", str(DEPLOY / "prometheus.yml"))


@pytest.mark.real
def test_each_alert_fires_and_clears() -> None:
    promtool("test", "rules", str(DEPLOY / "alerts_test.yml"))
    tested = {
        case["alertname"]: bool(case["exp_alerts"])
        for test in yaml.safe_load((DEPLOY / "alerts_test.yml").read_text())["tests"]
        for case in sorted(test["alert_rule_test"], key=lambda case: not case["exp_alerts"])
    }
    assert tested == {rule["alert"]: False for rule in rules()}, (
        "each alert is tested first to fire, then to clear"
    )


def test_alerts_and_panels_use_existing_series() -> None:
    metrics = Metrics()
    metrics.show_prefect(lambda: True)
    metrics.observe(Fleet(at=1.0, revision=1))
    shown = set(re.findall(r"^# TYPE (\S+)", metrics.render().decode(), re.MULTILINE))
    shown |= {SUFFIX.sub("", name) for name in shown}
    variables = [v["query"]["query"] for v in DASHBOARD["templating"]["list"][1:]]
    asked = [*queries(), *variables, *(rule["expr"] for rule in rules())]
    names = {name for text in asked for name in re.findall(r"\b(?:modelium|process)_\w+", text)}
    assert len(names) > 30
    assert {name for name in names if SUFFIX.sub("", name) not in shown} == set()


def test_the_dashboard_has_a_row_of_teams() -> None:
    at = [panel["title"] for panel in DASHBOARD["panels"]].index("Teams")
    shown = [panel["targets"][0]["expr"] for panel in DASHBOARD["panels"][at + 1 : at + 4]]
    assert shown == [
        f'sum by (team) (modelium_team_{name}{{instance=~"$instance"}})'
        for name in ("memory_booked_bytes", "gpu_seconds", "qps")
    ]


def test_the_dashboard_matches_grafanas_types() -> None:
    register_default_plugins()
    read = JSONEncoder().encode(Dashboard.from_json(DASHBOARD))
    lost = list(differences(DASHBOARD, json.loads(read)))
    assert lost == [], "Grafana drops unknown fields"


def differences(given: Any, read: Any, path: str = "") -> Iterator[str]:
    if isinstance(given, dict) and isinstance(read, dict):
        for key in given:
            if key in read:
                yield from differences(given[key], read[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        for i, (one, other) in enumerate(zip(given, read, strict=True)):
            yield from differences(one, other, f"{path}[{i}]")
    elif given != read:
        yield path


def test_panels_do_not_overlap_and_use_the_chosen_data_source() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    sources = {panel["datasource"]["uid"] for panel in panels()}
    sources |= {target["datasource"]["uid"] for panel in panels() for target in panel["targets"]}
    assert sources == {"${datasource}"}
