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


@pytest.mark.parametrize("every_field", [False, True])
def test_what_init_writes_passes_check_and_only_its_owner_reads_it(every_field: bool) -> None:
    assert config("init", "modelium.yaml", *["--all"] * every_field).exit_code == 0
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


def test_init_takes_the_folder_for_models(tmp_path: Path) -> None:
    folders = yaml.safe_load(config("init", "--models", "here").output)["orchestration"]

    assert folders["incoming_directory"] == str(tmp_path / "here/incoming")
    assert folders["model_repository"] == str(tmp_path / "here/repository")


def test_init_says_why_it_cannot_write() -> None:
    refused = config("init", "no/such/folder/m.yaml")

    assert refused.exit_code == 2
    assert "cannot write no/such/folder/m.yaml" in refused.stderr


def test_init_prints_what_can_be_redirected_into_the_file_that_up_reads() -> None:
    Path("modelium.yaml").touch()  # as a shell does before the command starts

    printed, dash = config("init"), config("init", "-")

    assert printed.exit_code == 0
    assert printed.output == dash.output
    assert any(section.get("enabled") for section in yaml.safe_load(printed.output).values())
    assert [file.stat().st_size for file in Path().iterdir()] == [0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "m.yaml: the file is empty"),
        ("# only a comment\n", "m.yaml: the file is empty"),
        ("gateway: {port: 2}", "m.yaml: no runtime is enabled"),
        ("vllm: {enabled: false}", "m.yaml: no runtime is enabled"),
    ],
)
def test_a_file_that_could_serve_nothing_is_an_error_that_says_what_to_add(
    text: str, said: str
) -> None:
    Path("m.yaml").write_text(text)

    found = config("check", "m.yaml")

    assert found.exit_code == 2
    assert said in found.stderr
    assert "enabled: true" in found.stderr


def test_check_without_a_file_says_how_to_get_one() -> None:
    found = config("check")

    assert found.exit_code == 2
    assert "modelium config init > modelium.yaml" in found.stderr


def test_a_runtime_from_the_environment_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELIUM_RAY_SERVE__ENABLED", "true")

    assert config("check").exit_code == 0


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

    Path("m.yaml").write_text("vllm: {enabled: true}")
    assert json.loads(config("check", "m.yaml", "--json").stdout) == {
        "ok": True,
        "file": "m.yaml",
        "problems": [],
        "warnings": [],
    }


def test_check_warns_of_folders_that_cannot_be_made_here() -> None:
    Path("m.yaml").write_text(
        "vllm: {enabled: true}\norchestration: {state_directory: /proc/modelium/state}"
    )
    found = config("check", "m.yaml")
    assert found.exit_code == 0
    assert "on this machine: orchestration.state_directory: cannot make" in found.stderr


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


def test_deploy_lists_and_prints_the_files_for_deployment() -> None:
    assert "modelium.service" in config("deploy").output.splitlines()
    assert "ExecStart=" in config("deploy", "modelium.service").output

    refused = config("deploy", "../pyproject.toml")
    assert refused.exit_code == 2
    assert "modelium.service" in refused.stderr


def test_schema_and_docs_print_what_the_repository_holds() -> None:
    assert config("schema").output == json_schema()
    assert config("docs").output == markdown()
