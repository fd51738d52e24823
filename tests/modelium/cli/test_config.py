"""``modelium config`` as a user runs it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from modelium.cli.config import app
from modelium.config.reference import json_schema, markdown


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODELIUM_CONFIG", raising=False)


def config(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_what_init_writes_passes_check_and_only_its_owner_reads_it() -> None:
    assert config("init").exit_code == 0
    assert stat.S_IMODE(Path("modelium.yaml").stat().st_mode) == 0o600

    checked = config("check")

    assert checked.exit_code == 0
    assert checked.output == "modelium.yaml: ok\n"


def test_init_keeps_an_existing_file_unless_forced() -> None:
    Path("mine.yaml").write_text("gateway: {port: 1}")

    refused = config("init", "mine.yaml")
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert Path("mine.yaml").read_text() == "gateway: {port: 1}"

    assert config("init", "mine.yaml", "--force").exit_code == 0
    assert "orchestration:" in Path("mine.yaml").read_text()


def test_init_says_why_it_cannot_write() -> None:
    refused = config("init", "no/such/folder/m.yaml")

    assert refused.exit_code == 2
    assert "cannot write no/such/folder/m.yaml" in refused.stderr


def test_init_prints_to_a_dash() -> None:
    printed = config("init", "-")

    assert yaml.safe_load(printed.output)["gateway"]["port"] == 8000
    assert not list(Path().iterdir())


def test_check_names_each_wrong_field_and_exits_2() -> None:
    Path("m.yaml").write_text("gateway: {port: -1, prot: 2}")

    found = config("check", "m.yaml")

    assert found.exit_code == 2
    assert found.stderr.splitlines() == [
        "2 problems:",
        "m.yaml: gateway.port: got -1; allowed: integer ≥ 0 and ≤ 65535",
        "m.yaml: gateway.prot: unknown key; did you mean port?",
    ]


def test_check_prints_json_either_way() -> None:
    Path("m.yaml").write_text("gateway: {prot: 2}")
    found = config("check", "m.yaml", "--json")
    assert found.exit_code == 2
    assert json.loads(found.stdout)["problems"] == [
        "m.yaml: gateway.prot: unknown key; did you mean port?"
    ]

    Path("m.yaml").write_text("gateway: {port: 2}")
    assert json.loads(config("check", "m.yaml", "--json").stdout) == {
        "ok": True,
        "file": "m.yaml",
        "problems": [],
    }


def test_show_prints_the_effective_values(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("m.yaml").write_text("gateway: {token: s3cret}")
    monkeypatch.setenv("MODELIUM_GATEWAY__PORT", "9000")

    text = config("show", "--config", "m.yaml")
    data = config("show", "-c", "m.yaml", "--json")

    assert text.exit_code == data.exit_code == 0
    assert "s3cret" not in text.output + data.output
    assert yaml.safe_load(text.output)["gateway"]["port"] == 9000
    assert json.loads(data.stdout)["values"]["gateway"]["port"] == 9000


def test_show_of_a_wrong_file_exits_2() -> None:
    shown = config("show", "--config", "none.yaml")

    assert shown.exit_code == 2
    assert "no such file" in shown.stderr


def test_schema_and_docs_print_what_the_repository_holds() -> None:
    assert config("schema").output == json_schema()
    assert config("docs").output == markdown()
