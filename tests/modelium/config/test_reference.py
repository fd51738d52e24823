"""What is written from the configuration's models: starter file, page, schema, shown values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from modelium.config import Config, ModelEntry
from modelium.config.environment import RESERVED, variable
from modelium.config.loading import load_effective
from modelium.config.lookup import entries
from modelium.config.reference import (
    HIDDEN,
    effective_data,
    effective_yaml,
    json_schema,
    markdown,
    starter,
)

ROOT = Path(__file__).parents[3]


def test_the_starter_file_has_every_field_and_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(starter(Config()), encoding="utf-8")

    effective = load_effective(file, {})

    assert effective.config == Config()
    dynamic = {entry.path for entry in entries() if entry.default_note}
    assert {entry.path for entry in entries()} == effective.given | dynamic


def test_the_starter_file_keeps_given_values(tmp_path: Path) -> None:
    wanted = Config.model_validate(
        {"orchestration": {"node": "gpu-1"}, "vllm": {"enabled": True, "base_port": 8150}}
    )
    file = tmp_path / "m.yaml"
    file.write_text(starter(wanted), encoding="utf-8")

    assert load_effective(file, {}).config == wanted


def test_the_starter_files_example_of_a_model_is_valid(tmp_path: Path) -> None:
    head, _, example = starter(Config()).partition("# For example, for a model named chat-model:\n")
    uncommented = "\n".join(line.removeprefix("# ") for line in example.splitlines())
    file = tmp_path / "m.yaml"
    file.write_text(head.replace("models: {}", "models:\n") + uncommented, encoding="utf-8")

    config = load_effective(file, {}).config

    assert config.models == {"chat-model": ModelEntry()}


@pytest.mark.parametrize(
    ("file", "text"), [("configuration.md", markdown()), ("config.schema.json", json_schema())]
)
def test_the_written_reference_is_up_to_date(file: str, text: str) -> None:
    assert (ROOT / "docs" / file).read_text(encoding="utf-8") == text, "run `make docs`"


def test_the_page_names_every_field_and_every_reserved_variable() -> None:
    page = markdown()

    for entry in entries():
        assert f"`{entry.path[-1]}`" in page or f"## {entry.dotted}" in page
    for name in RESERVED:
        assert f"`{name}`" in page


def test_the_pages_example_of_a_variable_works() -> None:
    name = variable(("gateway", "port"))

    assert f"{name}=9000" in markdown()
    assert load_effective(None, {name: "9000"}).config.gateway.port == 9000


@pytest.mark.parametrize(
    ("data", "valid"),
    [
        ({}, True),
        ({"gateway": {"port": 9000}, "models": {"gpt2": {"priority": "high"}}}, True),
        ({"gateway": {"port": 70000}}, False),
        ({"gateway": {"prot": 1}}, False),
        ({"models": {"not good": {}}}, False),
    ],
)
def test_the_schema_agrees_with_the_loader(data: dict[str, Any], valid: bool) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(json_schema()))

    assert validator.is_valid(data) == valid


def test_the_schema_accepts_the_starter_file() -> None:
    jsonschema.Draft202012Validator(json.loads(json_schema())).validate(
        yaml.safe_load(starter(Config()))
    )


SECRETS = """
gateway: {token: s3cret-1}
ingest: {webhook_secret: s3cret-2}
store: {url: "postgresql://me:s3cret-3@db/modelium"}
vllm: {environment: {HF_TOKEN: s3cret-4}}
brain: {base_url: "http://me:s3cret-5@llm/v1"}
"""


def test_shown_values_hide_secrets_and_name_their_source(tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(SECRETS, encoding="utf-8")
    effective = load_effective(file, {"MODELIUM_GATEWAY__PORT": "9000"})

    text = effective_yaml(effective)
    data = effective_data(effective)

    assert "s3cret" not in text + json.dumps(data)
    assert "  port: 9000  # MODELIUM_GATEWAY__PORT\n" in text
    assert data["file"] == str(file)
    assert data["values"]["gateway"]["token"] == HIDDEN
    assert data["values"]["vllm"]["environment"] == {"HF_TOKEN": HIDDEN}
    assert data["values"]["brain"]["base_url"] == "http://***@llm/v1"
    assert data["sources"]["gateway.token"] == "file"
    assert data["sources"]["gateway.port"] == "MODELIUM_GATEWAY__PORT"
    assert data["sources"]["gateway.host"] == "default"


def test_shown_values_are_a_configuration_themselves(tmp_path: Path) -> None:
    first, second = tmp_path / "1.yaml", tmp_path / "2.yaml"
    first.write_text("models: {gpt2: {pinned: true}}\nvllm: {enabled: true}", encoding="utf-8")
    effective = load_effective(first, {})
    second.write_text(effective_yaml(effective), encoding="utf-8")

    assert load_effective(second, {}).config == effective.config
